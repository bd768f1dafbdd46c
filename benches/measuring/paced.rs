//! Sends requests at a rate, whatever the answers do: `paced PORT SECS RATE CONNECTIONS STATUS FILE [RATE …]`
//!
//! wrk sends the next request when the last one is answered, so that a server which falls behind is asked less. Here requests
//! are due at random moments (a Poisson process), and their time runs from then on, also while all connections wait for an
//! answer. Each four arguments are a stream with its own connections, three at most; FILE has requests with NUL between, as
//! measuring/load.py writes them. Prints one line of numbers for each stream. One thread that never sleeps: it needs a core.
//! The standard library only: `rustc --edition 2021 -O paced.rs`.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long answers are waited for when nothing more is sent.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
const HEAD_END: &[u8] = b"\r\n\r\n";
const LENGTH: &[u8] = b"\r\ncontent-length:";
const ANSWER_LEN_MAX: usize = 64 * 1024;

struct Connection {
    socket: TcpStream,
    answer: Vec<u8>,
    due: Duration,
}

struct Stream {
    rate: f64,
    expected: Vec<u8>,
    requests: Vec<Vec<u8>>,
    next: usize,
    next_due: Duration,
    waiting: VecDeque<Duration>,
    idle: VecDeque<Connection>,
    busy: Vec<Connection>,
    micros: Vec<u64>,
    // How much later than due a request left although a connection was free: what this program, or the machine, is to blame for.
    late_micros: Vec<u64>,
    wrong: u64,
    random: u64,
}

impl Stream {
    fn new(port: u16, arguments: &[String], seed: u64) -> Self {
        let [rate, connections, status, file] = arguments else {
            panic!("RATE CONNECTIONS STATUS FILE")
        };
        let text = std::fs::read(file).expect("FILE can be read");
        let requests = text.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
        let count = connections.parse().expect("CONNECTIONS is a number");
        let idle = (0..count).map(|_| connect(port)).collect();
        let mut stream = Self {
            rate: rate.parse().expect("RATE is a number"),
            expected: format!("HTTP/1.1 {status} ").into_bytes(),
            requests,
            next: 0,
            next_due: Duration::ZERO,
            waiting: VecDeque::new(),
            idle,
            busy: Vec::new(),
            micros: Vec::new(),
            late_micros: Vec::new(),
            wrong: 0,
            random: seed,
        };
        stream.next_due = stream.gap();
        stream
    }

    /// Until the next request is due: exponential, so that moments are independent of each other.
    fn gap(&mut self) -> Duration {
        // xorshift64, https://www.jstatsoft.org/article/view/v008i14
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let uniform = ((self.random >> 11) + 1) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(-uniform.ln() / self.rate)
    }

    fn send_what_is_due(&mut self, begin: Instant, end: Duration) {
        let now = begin.elapsed();
        while self.next_due <= now && self.next_due < end {
            self.waiting.push_back(self.next_due);
            let gap = self.gap();
            self.next_due += gap;
        }
        let was_free = self.waiting.len() <= self.idle.len();
        while !self.waiting.is_empty() && !self.idle.is_empty() {
            let due = self.waiting.pop_front().expect("one waits");
            let mut connection = self.idle.pop_front().expect("one is idle");
            connection.due = due;
            // An idle connection has room for one request: this does not block.
            connection
                .socket
                .write_all(&self.requests[self.next])
                .expect("a request is sent");
            self.next = (self.next + 1) % self.requests.len();
            if was_free {
                self.late_micros.push((begin.elapsed() - due).as_micros() as u64);
            }
            self.busy.push(connection);
        }
    }

    fn read_answers(&mut self, begin: Instant, buffer: &mut [u8]) {
        let mut at = 0;
        while at < self.busy.len() {
            let connection = &mut self.busy[at];
            match connection.socket.read(buffer) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(count) => connection.answer.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    at += 1;
                    continue;
                }
                Err(error) => panic!("an answer cannot be read: {error}"),
            }
            assert!(connection.answer.len() <= ANSWER_LEN_MAX, "an answer is too long");
            if !is_complete(&connection.answer) {
                at += 1;
                continue;
            }
            let mut done = self.busy.swap_remove(at);
            self.micros.push((begin.elapsed() - done.due).as_micros() as u64);
            self.wrong += u64::from(!done.answer.starts_with(&self.expected));
            done.answer.clear();
            self.idle.push_back(done);
        }
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.busy.is_empty()
    }
}

fn connect(port: u16) -> Connection {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    socket.set_nodelay(true).expect("a socket has this option");
    socket.set_nonblocking(true).expect("a socket has this option");
    Connection {
        socket,
        answer: Vec::new(),
        due: Duration::ZERO,
    }
}

/// Whether all of an answer is there: its head, and as many bytes as that says.
fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = find(answer, HEAD_END) else {
        return false;
    };
    let head = answer[..end].to_ascii_lowercase();
    let length = find(&head, LENGTH).map_or(0, |at| {
        let rest = &head[at + LENGTH.len()..];
        let digits = rest
            .iter()
            .skip_while(|&&byte| byte == b' ')
            .take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
    });
    answer.len() >= end + HEAD_END.len() + length
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

fn percentile(sorted: &[u64], percent: f64) -> u64 {
    let at = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port = arguments[0].parse().expect("PORT is a number");
    let end = Duration::from_secs_f64(arguments[1].parse().expect("SECS is a number"));
    let groups = arguments[2..]
        .chunks(4)
        .zip([88_172_645_463_325_252, 521_288_629, 362_436_069]);
    let mut streams: Vec<Stream> = groups
        .map(|(group, number)| Stream::new(port, group, number))
        .collect();
    let mut buffer = [0; 16 * 1024];
    let begin = Instant::now();
    while begin.elapsed() < end || !streams.iter().all(Stream::is_done) {
        if begin.elapsed() > end + LAST_ANSWERS {
            break;
        }
        for stream in &mut streams {
            stream.send_what_is_due(begin, end);
            stream.read_answers(begin, &mut buffer);
        }
    }
    for stream in &mut streams {
        stream.micros.sort_unstable();
        stream.late_micros.sort_unstable();
        println!(
            "RESULT requests={} seconds={:.6} p50_us={} p99_us={} max_us={} late_p99_us={} wrong={} lost={}",
            stream.micros.len(),
            end.as_secs_f64(),
            percentile(&stream.micros, 50.0),
            percentile(&stream.micros, 99.0),
            percentile(&stream.micros, 100.0),
            percentile(&stream.late_micros, 99.0),
            stream.wrong,
            stream.waiting.len() + stream.busy.len(),
        );
    }
}
