//! The HTTP servers themselves: their workers, their connections, and what bounds both.
//!
//! Whoever connects costs a file descriptor, of which a process has so many. So there are never more connections than leave
//! enough for the database, its socket and webhooks; further ones wait in the system's queue until one is closed, which
//! every connection is that does nothing ([`http::connection`], `UNREAD_TIMEOUT`).
//!
//! It is what actix-web's own `HttpServer` does, put together here for the sake of [`Connection`], which that one has no
//! place for.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_service, map_config,
};
use actix_tls::accept::rustls_0_23::{Acceptor, AcceptorService, TlsStream};
use actix_tls::accept::{TlsError, max_concurrent_tls_connect};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, Server as ActixServer, ServerHandle};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, web};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::http::connection::Connection;
use crate::http::events::STREAMS_OF_OPERATOR_MAX;
use crate::http::{self, State};
use crate::tls::Certificate;

/// How long a client may take to send a request's head, and before it for the handshake of TLS.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what nobody wants of a body is still read when the answer is sent: to close before would be a reset, and take the
/// answer from who has not read it yet. As actix-web's own server has it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the other side of a connection may take nothing of what is sent to it (TCP_USER_TIMEOUT, tcp(7)).
#[cfg(target_os = "linux")]
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one worker; more wait to be accepted.
const CONNECTIONS_PER_WORKER_MAX: usize = 10_000;
/// Connections of the command line at the same time; no more than half of them follow events.
const OPERATOR_CONNECTIONS_MAX: usize = 2 * STREAMS_OF_OPERATOR_MAX;
/// Connections that may wait to be accepted: what actix asks for by itself; the standard library's 128 is short for a burst.
const BACKLOG: i32 = 1024;
/// File descriptors beside those of connections, workers and readers of the database: the operator's, 32 of webhooks, the
/// writer's, a backup's, and what runtimes and libraries open.
const FILES_RESERVED: usize = OPERATOR_CONNECTIONS_MAX + 104;
/// File descriptors of a worker: its runtime's, which waits for connections, for other threads and for signals.
const FILES_PER_WORKER: usize = 4;
/// File descriptors of a reader: the database, its log and the log's index.
const FILES_PER_READER: usize = 3;
/// Below this many connections a start warns: a page of a browser takes six.
const CONNECTIONS_FEW: usize = 1_000;

/// Lets this process open as many files as the system allows it to; most systems begin with 1,024, for the sake of old
/// programs. For a program that is nothing but this server.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays as it is: {error}");
    }
}

/// As many connections of each worker as there are file descriptors for.
fn connections_per_worker(config: &Config, workers: usize) -> usize {
    let readers = usize::try_from(config.database.read_pool).unwrap_or(usize::MAX);
    let files = getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let reserved = FILES_RESERVED
        .saturating_add(readers.saturating_mul(FILES_PER_READER))
        .saturating_add(workers.saturating_mul(FILES_PER_WORKER));
    let per_worker = (files.saturating_sub(reserved) / workers).max(1);
    let all = per_worker.saturating_mul(workers);
    if all < CONNECTIONS_FEW {
        log::warn!(
            "this process may open {files} files, so that only {all} connections are served at the same time; raise its \
             limit (`ulimit -n`, or LimitNOFILE= of systemd)"
        );
    }
    per_worker.min(CONNECTIONS_PER_WORKER_MAX)
}

/// Lets more connections wait to be accepted than the standard library does.
pub(super) fn lengthen_backlog(listener: &TcpListener) -> io::Result<()> {
    socket2::SockRef::from(listener).listen(BACKLOG)
}

pub(super) enum Listener {
    Tcp(TcpListener, Option<Arc<Certificate>>),
    Unix(UnixListener),
}

pub(super) fn start_http(config: &Config, listener: Listener, state: State) -> io::Result<ActixServer> {
    let state = web::Data::new(state);
    let workers = match (&listener, config.server.workers) {
        (Listener::Unix(_), _) => 1,
        (Listener::Tcp(..), 0) => std::thread::available_parallelism().map_or(1, usize::from),
        (Listener::Tcp(..), workers) => workers,
    };
    let connections_max = match listener {
        Listener::Unix(_) => OPERATOR_CONNECTIONS_MAX,
        Listener::Tcp(..) => connections_per_worker(config, workers),
    };
    let builder = ActixServer::build()
        .workers(workers)
        .max_concurrent_connections(connections_max)
        .shutdown_timeout(config.server.shutdown_grace_secs)
        // Its own handling takes SIGINT for "at once"; whoever runs the server says when to stop.
        .disable_signals();
    let signal = builder.graceful_shutdown_signal();
    let stopping = move || {
        let signal = signal.clone();
        async move { signal.notified().await }
    };
    let builder = match listener {
        Listener::Tcp(listener, None) => builder.listen("http", listener, move || {
            fn_service(async |stream: TcpStream| Ok(accepted(stream, |stream| stream)))
                .and_then(serve(state.clone(), stopping.clone()))
        }),
        Listener::Tcp(listener, Some(certificate)) => {
            // As many handshakes as connections: one that somebody leaves open costs no more than an idle connection, and
            // with actix's 256 a few of those would keep everybody else out.
            max_concurrent_tls_connect(CONNECTIONS_PER_WORKER_MAX);
            builder.listen("https", listener, move || {
                let mut tls = Acceptor::new(certificate.server_config());
                tls.set_handshake_timeout(HEAD_TIMEOUT);
                until(tls, stopping.clone())
                    .map_err(TlsError::into_service_error)
                    .and_then(fn_service(async |stream: TlsStream<TcpStream>| {
                        Ok(accepted(stream, |stream| stream.get_ref().0))
                    }))
                    .and_then(serve(state.clone(), stopping.clone()).map_err(TlsError::Service))
            })
        }
        Listener::Unix(listener) => builder.listen_uds("operator", listener, move || {
            fn_service(async |stream: UnixStream| Ok((Connection::new(stream), None)))
                .and_then(serve(state.clone(), stopping.clone()))
        }),
    };
    Ok(builder?.run())
}

/// Handshakes until then: a stop waits for none, as nothing was asked yet, and who is silent would delay it by their ten seconds.
fn until<Stopping: Future<Output = ()>>(
    acceptor: Acceptor,
    stopping: impl Fn() -> Stopping + Clone,
) -> impl ServiceFactory<
    TcpStream,
    Config = (),
    Response = TlsStream<TcpStream>,
    Error = TlsError<io::Error, Infallible>,
    InitError = (),
> {
    apply_fn_factory::<_, _, _, _, _, TcpStream, _, _>(
        acceptor,
        move |stream: TcpStream, acceptor: &AcceptorService| {
            let (handshake, stopping) = (acceptor.call(stream), stopping());
            async move {
                tokio::select! {
                    done = handshake => done,
                    () = stopping => Err(TlsError::Timeout),
                }
            }
        },
    )
}

/// HTTP/1.1 on connections of one kind.
fn serve<Stream, Stopping>(
    state: web::Data<State>,
    stopping: impl Fn() -> Stopping + 'static,
) -> impl ServiceFactory<
    (Connection<Stream>, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
>
where
    Stream: AsyncRead + AsyncWrite + Unpin + 'static,
    Stopping: Future<Output = ()> + 'static,
{
    let edge_state = state.clone();
    let app = App::new()
        .wrap(from_fn(move |request, next: Next<BoxBody>| {
            http::edge(request, next, edge_state.clone())
        }))
        .configure(|config| http::routes(config, &state))
        .default_service(web::to(http::not_found))
        .into_factory()
        .map_err(|error| error.error_response());
    HttpService::build()
        .graceful_shutdown_signal(stopping)
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(LINGER_TIMEOUT)
        // Idle ones are closed by `Connection`, which spares each request a timer.
        .keep_alive(KeepAlive::Os)
        // Whoever closes their side is gone: a stream of theirs ends then, and not with some later heartbeat. It holds for
        // every request, as it does with hyper and others: who closes before the answer is there gets none.
        .h1_allow_half_closed(false)
        .on_connect_ext(|connection: &Connection<Stream>, data| connection.introduce(data))
        .h1(map_config(app, |()| AppConfig::default()))
}

/// A connection that was accepted, and whose it is.
fn accepted<Stream>(
    stream: Stream,
    tcp: impl FnOnce(&Stream) -> &TcpStream,
) -> (Connection<Stream>, Option<SocketAddr>) {
    let tcp = tcp(&stream);
    bound_unread(tcp);
    let peer = tcp.peer_addr().ok();
    (Connection::new(stream), peer)
}

/// Has the system close a connection whose other side takes nothing of what is sent: an answer, or a live stream, would
/// wait for it for ever.
fn bound_unread(connection: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(connection).set_tcp_user_timeout(Some(UNREAD_TIMEOUT)) {
        log::debug!("a connection has no bound for how long it may take nothing: {error}");
    }
}

/// An HTTP server under way.
pub(super) struct Running {
    handle: ServerHandle,
    task: JoinHandle<io::Result<()>>,
}

impl Running {
    pub(super) fn start(server: ActixServer) -> Self {
        Self {
            handle: server.handle(),
            task: tokio::spawn(server),
        }
    }

    /// Accepts nothing more, and waits for running requests, at most the grace time.
    pub(super) async fn stop(self) {
        self.handle.stop(true).await;
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("the HTTP server failed: {error}"),
            Err(error) => log::error!("the HTTP server failed: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connection_whose_other_side_takes_nothing_is_closed_by_the_system() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = tokio::net::TcpStream::connect(address)
            .await
            .expect("a connection");
        let (accepted, _) = listener.accept().await.expect("a connection");
        bound_unread(&accepted);
        let bound = |stream| {
            socket2::SockRef::from(stream)
                .tcp_user_timeout()
                .expect("an option")
        };
        assert_eq!(bound(&accepted), Some(UNREAD_TIMEOUT));
        assert_eq!(bound(&client), None, "which is what there is without it");
    }
}
