//! How long a connection may keep this server waiting: for the next request, and for its answer to be taken.
//!
//! actix bounds the first head of a connection, and could bound the pause before each further one. But a head that has begun
//! ends the pause, and if it is not the first, nothing bounds it: whoever has asked for `/healthz` and then sends a byte keeps
//! the connection for ever, and with some thousands of those everybody else out. So each connection is looked at every
//! `LOOK_EVERY`, and closed if the same thing is waited for since too many looks. Counting looks rather than time costs a
//! request nothing but setting a number.
//!
//! While a request is answered nothing is waited for: what a handler reads, does and streams has bounds of its own.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Extensions, ServiceResponse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::unread;

/// How often a connection is looked at: as long as a head may take, so that a slow one is seen at the second look.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Looks at the same head.
const HEAD_LOOKS_MAX: u8 = 2;
/// Looks at a connection without a request, 70 to 80 seconds: longer than the minute for which proxies keep theirs, so that
/// they are the first to close it. A reader who takes an answer so slowly that this is not enough is none to wait for.
const REQUEST_LOOKS_MAX: u8 = 8;

/// What is waited for on a connection, and since how many looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The next request, once the answer before it is taken.
    Request(u8),
    /// The rest of a head.
    Head(u8),
    /// Nothing: a request is being answered.
    Nothing,
}

/// What the handlers and the connection both know of what is waited for. All of a connection happens on one thread.
#[derive(Debug, Clone)]
struct Patience(Rc<Cell<Awaited>>);

impl Patience {
    /// Bytes have come. What follows a head on its way to the handler, a body or a further request, does not count.
    fn see_bytes(&self) {
        if matches!(self.0.get(), Awaited::Request(_)) {
            self.0.set(Awaited::Head(0));
        }
    }

    /// Whether it is over at this look.
    fn is_over(&self) -> bool {
        let (next, is_over) = match self.0.get() {
            Awaited::Request(looks) => (Awaited::Request(looks + 1), looks + 1 >= REQUEST_LOOKS_MAX),
            Awaited::Head(looks) => (Awaited::Head(looks + 1), looks + 1 >= HEAD_LOOKS_MAX),
            Awaited::Nothing => (Awaited::Nothing, false),
        };
        self.0.set(next);
        is_over
    }
}

/// A connection that is closed if it keeps the server waiting.
#[derive(Debug)]
pub struct Connection<Stream> {
    stream: Stream,
    patience: Patience,
    looks: Interval,
}

impl<Stream> Connection<Stream> {
    /// Begins to wait for its first request.
    pub fn new(stream: Stream) -> Self {
        let mut looks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream,
            patience: Patience(Rc::new(Cell::new(Awaited::Request(0)))),
            looks,
        }
    }

    /// Leaves with all requests of this connection how to say that they are being answered.
    pub fn introduce(&self, data: &mut Extensions) {
        data.insert(self.patience.clone());
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Connection<Stream> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.looks.poll_tick(context).is_ready() {
            if this.patience.is_over() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.patience.see_bytes();
        }
        read
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Connection<Stream> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// That a request is being answered, as long as it lives.
pub struct Answering(Option<Patience>);

impl Answering {
    /// Begins to.
    pub fn begin(request: &HttpRequest) -> Self {
        let patience = request.conn_data::<Patience>().cloned();
        if let Some(patience) = &patience {
            patience.0.set(Awaited::Nothing);
        }
        Self(patience)
    }

    /// The answer is there: from here on its reader is waited for. A stream is answered until it ends.
    pub fn finish(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        match response.response().body().size() {
            BodySize::Stream => unread::hold(response, self),
            BodySize::None | BodySize::Sized(_) => response,
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(patience) = &self.0 {
            patience.0.set(Awaited::Request(0));
        }
    }
}
