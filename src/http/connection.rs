//! How long a connection may keep this server waiting: for the next request, and for its answer to be taken.
//!
//! actix bounds the first head of a connection, and could bound the pause before each further one. But a head that has begun
//! ends the pause, and if it is not the first, nothing bounds it: whoever has asked for `/healthz` and then sends a byte keeps
//! the connection for ever, and with some thousands of those everybody else out. So each connection is looked at every
//! `LOOK_EVERY`, and closed if the same thing is waited for since too many looks. Counting looks rather than time costs a
//! request nothing but setting a number.
//!
//! While a request is answered nothing is waited for: what a handler reads, does and streams has bounds of its own.
//!
//! actix takes what of a client's requests comes at once, and keeps up to 128 KiB of what comes after them. With that it reads no
//! further, and asks itself over and over, as fast as it can, whether there is room again: whoever follows events and sends some
//! hundred KB of requests after that would have a whole processor for it. From here this looks like writing that goes nowhere while nothing is read, which
//! nobody does for long who means well. It is not enough to count bytes: of those that came, nobody here knows which are used.

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
/// Times that actix comes by without reading, and with nothing that can be written. Who waits comes by once or twice, who goes
/// in circles does so many in a few milliseconds.
const CIRCLES_MAX: u16 = 1_000;

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
    /// Whether some of an answer waits for its reader. What comes meanwhile is sent ahead, and no head to wait for.
    is_unsent: bool,
    /// Times since the last reading and writing that neither was done.
    circles: u16,
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
            is_unsent: false,
            circles: 0,
        }
    }

    /// Leaves with all requests of this connection how to say that they are being answered.
    pub fn introduce(&self, data: &mut Extensions) {
        data.insert(self.patience.clone());
    }

    /// Takes the looks that are due, and sees to it that the next one is.
    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.looks.poll_tick(context).is_ready() {
            if self.patience.is_over() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Nothing was written. It is usual once after each reading; from then on the looks are taken here, as nobody reads.
    fn come_by(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.circles += 1;
        match self.circles {
            0..=1 => Ok(()),
            2..CIRCLES_MAX => self.look(context),
            CIRCLES_MAX.. => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Connection<Stream> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.circles = 0;
        this.look(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && !this.is_unsent {
            this.patience.see_bytes();
        }
        read
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Connection<Stream> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.is_unsent = written.is_pending();
        match this.is_unsent {
            true => this.come_by(context)?,
            false => this.circles = 0,
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.is_unsent = flushed.is_pending();
        this.come_by(context)?;
        flushed
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
        Self::of(request.conn_data::<Patience>().cloned())
    }

    fn of(patience: Option<Patience>) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    /// A connection on which so many bytes can be on their way, and its other side.
    fn connection(room: usize) -> (Connection<DuplexStream>, DuplexStream) {
        let (here, there) = duplex(room);
        (Connection::new(here), there)
    }

    fn answering(connection: &Connection<DuplexStream>) -> Answering {
        Answering::of(Some(connection.patience.clone()))
    }

    /// Reads what comes until the connection is closed, and tells after how many seconds, and why.
    async fn closed(connection: &mut Connection<DuplexStream>) -> (u64, io::ErrorKind) {
        let started = Instant::now();
        loop {
            match connection.read(&mut [0; 64]).await {
                Ok(len) => assert!(len > 0, "the other side is there"),
                Err(error) => return (started.elapsed().as_secs(), error.kind()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_request_is_closed_at_the_eighth_look() {
        let (mut connection, _there) = connection(64);
        assert_eq!(closed(&mut connection).await, (80, io::ErrorKind::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn connection_with_a_head_that_does_not_end_is_closed_at_the_second_look() {
        let (mut connection, mut there) = connection(64);
        let started = Instant::now();
        let why = loop {
            there.write_all(b"a").await.expect("sent");
            let dribbled = tokio::time::timeout(Duration::from_millis(300), closed(&mut connection));
            if let Ok((_, why)) = dribbled.await {
                break why;
            }
        };
        assert_eq!((started.elapsed().as_secs(), why), (20, io::ErrorKind::TimedOut));
    }

    #[tokio::test(start_paused = true)]
    async fn connection_whose_request_is_being_answered_is_kept_and_waits_from_the_end_of_the_answer_on() {
        let (mut connection, mut there) = connection(64);
        let answer = answering(&connection);
        there.write_all(b"more").await.expect("sent");
        let day = tokio::time::timeout(Duration::from_secs(24 * 60 * 60), closed(&mut connection));
        assert!(day.await.is_err(), "however long it takes");
        drop(answer);
        let (seconds, why) = closed(&mut connection).await;
        assert!((70..=80).contains(&seconds), "{seconds}");
        assert_eq!(why, io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_comes_back_every_minute_is_served_each_time() {
        let (mut connection, mut there) = connection(64);
        for _ in 0..10 {
            let minute = tokio::time::timeout(Duration::from_secs(60), closed(&mut connection));
            assert!(minute.await.is_err());
            there.write_all(b"GET").await.expect("sent");
            connection.read_exact(&mut [0; 3]).await.expect("it is there");
            drop(answering(&connection));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reader_of_an_answer_is_waited_for_no_less_if_the_next_request_is_there() {
        let (mut connection, mut there) = connection(4);
        drop(answering(&connection));
        let sent = tokio::time::timeout(Duration::from_secs(1), connection.write_all(b"an answer"));
        assert!(sent.await.is_err(), "there is no room");
        there.write_all(b"G").await.expect("sent");
        assert_eq!(closed(&mut connection).await.0, 79);
    }

    #[tokio::test(start_paused = true)]
    async fn head_that_begins_after_the_answer_is_taken_is_waited_for_as_any() {
        let (mut connection, mut there) = connection(4);
        drop(answering(&connection));
        let sent = tokio::time::timeout(Duration::from_secs(1), connection.write_all(b"an answer"));
        assert!(sent.await.is_err(), "there is no room");
        there.read_exact(&mut [0; 4]).await.expect("some of it");
        connection.write_all(b"rest").await.expect("there is room");
        there.write_all(b"G").await.expect("sent");
        assert_eq!(closed(&mut connection).await.0, 19);
    }

    /// What actix does when it holds all that it may.
    async fn circles(connection: &mut Connection<DuplexStream>) -> Option<io::ErrorKind> {
        for _ in 0..CIRCLES_MAX {
            if let Err(error) = connection.flush().await {
                return Some(error.kind());
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_goes_in_circles_is_closed_also_while_it_is_answered() {
        let (mut connection, mut there) = connection(4_096);
        let _answer = answering(&connection);
        for _ in 0..CIRCLES_MAX {
            connection.flush().await.expect("it is open");
            connection.write_all(b"a").await.expect("an answer goes out");
        }
        for _ in 0..CIRCLES_MAX {
            connection.flush().await.expect("it is open");
            there.write_all(b"a").await.expect("sent");
            connection.read_exact(&mut [0]).await.expect("it is read");
        }
        assert_eq!(
            circles(&mut connection).await,
            Some(io::ErrorKind::ConnectionAborted)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn looks_are_taken_also_where_nothing_is_read() {
        let (mut connection, _there) = connection(64);
        let started = Instant::now();
        let error = loop {
            tokio::time::advance(Duration::from_secs(1)).await;
            if let Err(error) = connection.flush().await {
                break error.kind();
            }
        };
        assert_eq!(
            (started.elapsed().as_secs(), error),
            (80, io::ErrorKind::TimedOut)
        );
    }
}
