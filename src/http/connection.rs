//! What a connection passes on to actix, and how long it may keep this server waiting.
//!
//! **One request at a time.** actix takes whatever has come: of 128 KiB it would make some thousands of requests, of 4 KB each, before
//! the first of them is answered; answers without a body it would put one behind the other for as long as nobody reads them; and
//! whether an answer has a body it would go by the request that it read last, not by the one that is answered. So no byte of a
//! request is passed on before the answer to the one before it has gone out. What a client has sent ahead stays in the system's
//! buffers but for `AHEAD_LEN` bytes, which bounds what a connection takes, and slows down who sends too much.
//!
//! For that nothing is parsed here. Every head ends with an empty line, and so does a body in chunks: what is passed on at
//! once ends at the first one at the latest, and is all that actix gets before it has looked at it. If that was the end of a head, its
//! request is being answered by then, and says how its body ends (`Body`). If it was none, more is passed on. So what stands between is
//! actix's to judge, and a wrong guess here would delay bytes, and not give them another meaning.
//!
//! **Nobody is waited for without end.** actix bounds the first head of a connection, and could bound the pause before each further
//! one. But a head that has begun ends the pause, and if it is not the first, nothing bounds it: whoever has asked for `/healthz` and
//! then sends a byte keeps the connection for ever, and with some thousands of those everybody else out. So each connection is looked
//! at every `LOOK_EVERY`, and closed if the same thing is waited for since too many looks. Counting looks rather than time costs a
//! request nothing but setting a number.
//!
//! While a request is answered nothing is waited for: what a handler reads, does and streams has bounds of its own.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Extensions, ServiceResponse};
use actix_web::http::header;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::unread;

/// Bytes that are read before it is known whose they are: most heads have less.
const AHEAD_LEN: usize = 2_048;
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
    /// Nothing: a request is being answered, and this of its body is still to be passed on.
    Answer(Body),
}

/// What is left of the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// So many bytes; none, if it has no body.
    Length(u64),
    /// Chunks, and whether somebody waits for more of them. Whoever does has not seen their end.
    Chunks { are_wanted: bool },
}

impl Body {
    /// actix has refused whatever says this in two ways. What follows `CONNECT` or `Upgrade` is nobody's here.
    fn of(request: &HttpRequest) -> Self {
        if request.headers().contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunks { are_wanted: false };
        }
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        Self::Length(length.unwrap_or(0))
    }
}

/// What the handlers and the connection both know of what is waited for. All of a connection happens on one thread.
#[derive(Debug, Clone)]
pub struct Patience(Rc<Cell<Awaited>>);

impl Patience {
    /// That of the connection that a request came by; tests of handlers have none.
    pub fn of(request: &HttpRequest) -> Option<Self> {
        request.conn_data::<Self>().cloned()
    }

    /// Whoever reads the body of the request has all that came, and waits for more.
    pub fn want_chunks(&self) {
        if let Awaited::Answer(Body::Chunks { .. }) = self.0.get() {
            self.0.set(Awaited::Answer(Body::Chunks { are_wanted: true }));
        }
    }

    /// Bytes are passed on: they begin a head, or are of one.
    fn see_head(&self) {
        if matches!(self.0.get(), Awaited::Request(_)) {
            self.0.set(Awaited::Head(0));
        }
    }

    /// Whether it is over at this look.
    fn is_over(&self) -> bool {
        let (next, is_over) = match self.0.get() {
            Awaited::Request(looks) => (Awaited::Request(looks + 1), looks + 1 >= REQUEST_LOOKS_MAX),
            Awaited::Head(looks) => (Awaited::Head(looks + 1), looks + 1 >= HEAD_LOOKS_MAX),
            answer @ Awaited::Answer(_) => (answer, false),
        };
        self.0.set(next);
        is_over
    }
}

/// Bytes that were read and not yet passed on.
#[derive(Debug)]
struct Ahead {
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
    /// Whether the line that goes on here is empty as yet.
    is_line_empty: bool,
}

impl Ahead {
    fn new() -> Self {
        Self {
            bytes: vec![0; AHEAD_LEN].into(),
            from: 0,
            to: 0,
            is_line_empty: true,
        }
    }

    fn len(&self) -> usize {
        self.to - self.from
    }

    /// Reads what has come, if all from before was passed on. Nothing after that is the end of the stream.
    fn fill(&mut self, context: &mut Context<'_>, stream: Pin<&mut impl AsyncRead>) -> Poll<io::Result<()>> {
        if self.len() > 0 {
            return Poll::Ready(Ok(()));
        }
        let mut room = ReadBuf::new(&mut self.bytes);
        ready!(stream.poll_read(context, &mut room))?;
        (self.from, self.to) = (0, room.filled().len());
        Poll::Ready(Ok(()))
    }

    /// Passes so many bytes on, at most.
    fn pass_on(&mut self, len_max: usize, buffer: &mut ReadBuf<'_>) -> usize {
        let len = self.len().min(len_max).min(buffer.remaining());
        buffer.put_slice(&self.bytes[self.from..self.from + len]);
        self.from += len;
        len
    }

    /// Passes on what comes before the end of an empty line, and that; whether there was one.
    fn pass_on_to_empty_line(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let bytes = &self.bytes[self.from..self.to];
        let bytes = &bytes[..bytes.len().min(buffer.remaining())];
        let mut begin = 0;
        let end = memchr::memchr_iter(b'\n', bytes).find_map(|at| {
            let is_empty = self.is_line_empty && is_empty_line(&bytes[begin..at]);
            (begin, self.is_line_empty) = (at + 1, true);
            is_empty.then_some(begin)
        });
        if end.is_none() {
            self.is_line_empty &= is_empty_line(&bytes[begin..]);
        }
        let len = end.unwrap_or(bytes.len());
        self.pass_on(len, buffer);
        end.is_some()
    }
}

/// Whether nothing stands in a line, or in so much of it. actix lets a line end in LF alone, and refuses lines of more CRs.
fn is_empty_line(line: &[u8]) -> bool {
    line.iter().all(|&byte| byte == b'\r')
}

/// A connection that passes one request on at a time, and is closed if it keeps the server waiting.
#[derive(Debug)]
pub struct Connection<Stream> {
    stream: Stream,
    patience: Patience,
    looks: Interval,
    ahead: Ahead,
    /// Whether what was passed on last ended with an empty line, and actix has yet to look at it.
    is_at_empty_line: bool,
    /// Whether bytes are held back until an answer is there, or has gone out, or somebody wants chunks.
    is_held: bool,
    /// Whether some of an answer waits for its reader.
    is_unsent: bool,
    /// Whether somebody came to read since the last writing.
    is_read: bool,
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
            ahead: Ahead::new(),
            is_at_empty_line: false,
            is_held: false,
            is_unsent: false,
            is_read: false,
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

    /// While actix only writes, as it does at the end of a connection, the looks are taken here.
    fn look_unless_read(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match std::mem::take(&mut self.is_read) {
            true => Ok(()),
            false => self.look(context),
        }
    }

    /// Passes on what may be; whether there was any such thing.
    fn pass_on(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        match self.patience.0.get() {
            Awaited::Answer(Body::Length(0) | Body::Chunks { are_wanted: false }) => return false,
            Awaited::Answer(Body::Length(left)) => {
                let len = self
                    .ahead
                    .pass_on(usize::try_from(left).unwrap_or(usize::MAX), buffer);
                let left = left.saturating_sub(len as u64);
                self.patience.0.set(Awaited::Answer(Body::Length(left)));
            }
            Awaited::Answer(Body::Chunks { are_wanted: true }) => {
                self.patience
                    .0
                    .set(Awaited::Answer(Body::Chunks { are_wanted: false }));
                self.is_at_empty_line = self.ahead.pass_on_to_empty_line(buffer);
            }
            Awaited::Request(_) | Awaited::Head(_) if self.is_unsent => return false,
            Awaited::Request(_) | Awaited::Head(_) => {
                self.patience.see_head();
                self.is_at_empty_line = self.ahead.pass_on_to_empty_line(buffer);
            }
        }
        true
    }

    /// Whether what is held back may be passed on by now.
    fn is_ready(&self) -> bool {
        match self.patience.0.get() {
            Awaited::Answer(Body::Length(left)) => left > 0,
            Awaited::Answer(Body::Chunks { are_wanted }) => are_wanted,
            Awaited::Request(_) | Awaited::Head(_) => !self.is_unsent,
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
        this.is_read = true;
        this.look(context)?;
        let is_at_empty_line = std::mem::take(&mut this.is_at_empty_line);
        ready!(this.ahead.fill(context, Pin::new(&mut this.stream)))?;
        if this.ahead.len() == 0 {
            // The other side has closed.
            return Poll::Ready(Ok(()));
        }
        if is_at_empty_line {
            // actix looks at what it has only when nothing more is there.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.is_held = !this.pass_on(buffer);
        match this.is_held {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Connection<Stream> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.is_unsent = written.is_pending();
        if this.is_unsent {
            this.look_unless_read(context)?;
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.is_unsent = flushed.is_pending();
        this.look_unless_read(context)?;
        // actix comes here after all else that it does, and comes back to read only when it is woken.
        if this.is_held && this.is_ready() {
            this.is_held = false;
            context.waker().wake_by_ref();
        }
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
        Self::of(Patience::of(request), Body::of(request))
    }

    fn of(patience: Option<Patience>, body: Body) -> Self {
        if let Some(patience) = &patience {
            patience.0.set(Awaited::Answer(body));
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    /// A connection on which so many bytes can be on their way, and its other side.
    fn connection(room: usize) -> (Connection<DuplexStream>, DuplexStream) {
        let (here, there) = duplex(room);
        (Connection::new(here), there)
    }

    fn answering(connection: &Connection<DuplexStream>) -> Answering {
        answering_with(connection, Body::Length(0))
    }

    fn answering_with(connection: &Connection<DuplexStream>, body: Body) -> Answering {
        Answering::of(Some(connection.patience.clone()), body)
    }

    /// What actix reads before it looks at it: all that comes until it would have to wait.
    async fn gulp(connection: &mut Connection<DuplexStream>) -> String {
        let mut bytes = Vec::new();
        std::future::poll_fn(|context| {
            loop {
                let mut room = [0; 64];
                let mut buffer = ReadBuf::new(&mut room);
                match Pin::new(&mut *connection).poll_read(context, &mut buffer) {
                    Poll::Ready(read) => read.expect("it is open"),
                    Poll::Pending => return Poll::Ready(()),
                }
                assert!(!buffer.filled().is_empty(), "the other side is there");
                bytes.extend_from_slice(buffer.filled());
            }
        })
        .await;
        String::from_utf8(bytes).expect("text")
    }

    const HEAD: &str =
        "GET / HTTP/1.1\r\nHost: a name that is longer than what is read at once, which is 64 bytes\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_at_once_is_passed_on_one_request_at_a_time() {
        let (mut connection, mut there) = connection(4_096);
        there.write_all(HEAD.repeat(3).as_bytes()).await.expect("sent");
        for _ in 0..3 {
            assert_eq!(gulp(&mut connection).await, HEAD);
            let answer = answering(&connection);
            for _ in 0..3 {
                assert_eq!(gulp(&mut connection).await, "", "before the answer");
            }
            drop(answer);
        }
        assert_eq!(gulp(&mut connection).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn empty_line_ends_what_is_passed_on_however_lines_end_and_bytes_come() {
        let cases = [
            ("a\r\nb\r\n\r\nc", "a\r\nb\r\n\r\n"),
            ("a\nb\n\nc", "a\nb\n\n"),
            ("a\n\r\nc", "a\n\r\n"),
            ("a\r\n\nc", "a\r\n\n"),
            ("\r\na\r\n", "\r\n"),
            ("a\r\n \r\n\r\n\n", "a\r\n \r\n\r\n"),
        ];
        for (sent, first) in cases {
            let (mut connection, mut there) = connection(64);
            there.write_all(sent.as_bytes()).await.expect("sent");
            assert_eq!(gulp(&mut connection).await, first, "{sent:?}");

            let (mut connection, mut there) = self::connection(64);
            for (at, byte) in (1..).zip(sent.as_bytes()) {
                there.write_all(&[*byte]).await.expect("sent");
                connection.read_exact(&mut [0]).await.expect("it is there");
                if connection.is_at_empty_line {
                    assert_eq!(at, first.len(), "{sent:?}");
                    break;
                }
                assert!(at < first.len(), "{sent:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn body_is_passed_on_while_its_request_is_answered_and_nothing_after_it() {
        let (mut connection, mut there) = connection(4_096);
        let body = "[\n\n]".repeat(100);
        there
            .write_all(format!("{HEAD}{body}{HEAD}").as_bytes())
            .await
            .expect("sent");
        assert_eq!(gulp(&mut connection).await, HEAD);
        let answer = answering_with(&connection, Body::Length(body.len() as u64));
        let mut passed_on = gulp(&mut connection).await;
        passed_on += &gulp(&mut connection).await;
        assert_eq!(passed_on, body);
        drop(answer);
        assert_eq!(gulp(&mut connection).await, HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_are_passed_on_to_who_waits_for_them_and_no_further_than_their_end() {
        let (mut connection, mut there) = connection(4_096);
        let chunks = ["4\r\n\r\n", "\r\n", "\r\n", "0\r\n\r\n"];
        there
            .write_all(format!("{HEAD}{}{HEAD}", chunks.concat()).as_bytes())
            .await
            .expect("sent");
        assert_eq!(gulp(&mut connection).await, HEAD);
        let answer = answering_with(&connection, Body::Chunks { are_wanted: false });
        for chunk in chunks {
            for _ in 0..2 {
                assert_eq!(gulp(&mut connection).await, "", "nobody waits");
            }
            connection.patience.want_chunks();
            assert_eq!(gulp(&mut connection).await, chunk);
        }
        assert_eq!(
            gulp(&mut connection).await,
            "",
            "who has seen the end waits for no more"
        );
        drop(answer);
        assert_eq!(gulp(&mut connection).await, HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn next_request_is_passed_on_when_the_answer_has_gone_out() {
        let (mut connection, mut there) = connection(64);
        there.write_all(b"a\r\n\r\nb").await.expect("sent");
        assert_eq!(gulp(&mut connection).await, "a\r\n\r\n");
        drop(answering(&connection));
        let sent = tokio::time::timeout(Duration::from_secs(1), connection.write_all(&[b'a'; 65]));
        assert!(sent.await.is_err(), "there is no room");
        for _ in 0..2 {
            assert_eq!(gulp(&mut connection).await, "", "nobody has taken the answer");
        }
        there.read_exact(&mut [0; 64]).await.expect("all of it");
        connection.write_all(b"rest").await.expect("there is room");
        assert_eq!(gulp(&mut connection).await, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_held_back_is_woken_once_when_it_may_go_on() {
        let (mut connection, mut there) = connection(4_096);
        there.write_all(HEAD.repeat(2).as_bytes()).await.expect("sent");
        assert_eq!(gulp(&mut connection).await, HEAD);
        let answer = answering(&connection);
        gulp(&mut connection).await;
        gulp(&mut connection).await;
        let mut woken = async || {
            let woken = Arc::new(Woken::default());
            let waker = Arc::clone(&woken).into();
            let flushed = Pin::new(&mut connection).poll_flush(&mut Context::from_waker(&waker));
            assert!(flushed.is_ready());
            woken.0.load(Ordering::SeqCst)
        };
        assert_eq!(woken().await, 0, "the answer is not there");
        drop(answer);
        assert_eq!(woken().await, 1);
        assert_eq!(woken().await, 0, "or it would go in circles");
    }

    /// How often somebody was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
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
        assert_eq!(
            closed(&mut connection).await,
            (20, io::ErrorKind::TimedOut),
            "it has begun a head"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_comes_back_every_minute_is_served_each_time() {
        let (mut connection, mut there) = connection(64);
        for _ in 0..10 {
            let minute = tokio::time::timeout(Duration::from_secs(60), closed(&mut connection));
            assert!(minute.await.is_err());
            there.write_all(b"GET\r\n\r\n").await.expect("sent");
            connection.read_exact(&mut [0; 7]).await.expect("it is there");
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
