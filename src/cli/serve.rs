//! `pg_reseed serve`: the agent on its standard streams, or behind a port.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{self, Status};
use super::signals::{any_signal, stop_signal};
use super::{cannot_begin, passfile, resolve};
use crate::agent;
use crate::agent::listen::{Keys, ListenOptions, listen};
use crate::agent::options::ServeOptions;
use crate::cli::args::ServeArguments;
use crate::cli::resolve::Listening;
use crate::disk::confine::{self, Confined};
use crate::errors::chain;
use crate::link::stdio;
use crate::ui::log;
use crate::workers;

/// Serves as the arguments say.
pub(super) fn serve(typed: ServeArguments) -> ExitCode {
    // A daemon tells of who comes and goes.
    let verbosity = i16::from(typed.listen.is_some());
    if let Err(error) = log::start(verbosity, log::Sink::standard_error()) {
        return exit::wrong_variable(&error);
    }
    let dbname = match resolve::own_server(typed.dbname.as_deref().unwrap_or_default()) {
        Ok(conninfo) => conninfo,
        Err(error) => return exit::usage(&error, "serve"),
    };
    let result = match resolve::listening(&typed) {
        Err(error) => return exit::usage(&error, "serve"),
        Ok(Some(listening)) => behind_port(typed, &listening),
        Ok(None) => {
            let passfile = passfile::read(dbname.get("passfile"), &|name| std::env::var_os(name));
            on_standard_streams(ServeOptions {
                dbname,
                pgdata: typed.pgdata,
                passfile,
                is_stopped: typed.stopped,
            })
        }
    };
    match result {
        Ok(()) => Status::Done.code(),
        Err(error) => cannot_begin(&error),
    }
}

fn on_standard_streams(options: ServeOptions) -> Result<(), String> {
    workers::let_others_first();
    give_up_writing();
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let streams = stdio::standard_streams()
            .map_err(|error| format!("could not use the standard streams: {error}"))?;
        agent::serve::serve(options, streams, stop_signal())
            .await
            .map_err(|error| chain(&error))
    });
    // A thread may still wait for standard input.
    runtime.shutdown_background();
    result
}

fn behind_port(typed: ServeArguments, listening: &Listening) -> Result<(), String> {
    give_up_writing();
    let keys = Keys::read(&listening.files).map_err(|error| chain(&error))?;
    let keys = Arc::new(keys);
    let mut agent: Vec<OsString> = Vec::new();
    if let Some(dbname) = typed.dbname {
        agent.extend(["--dbname".into(), dbname.into()]);
    }
    if let Some(pgdata) = typed.pgdata {
        agent.extend(["--pgdata".into(), pgdata.into()]);
    }
    let options = ListenOptions {
        allowed: typed.allow,
        connections_max: usize::from(typed.max_connections),
        agent,
    };
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let Listening { host, port, .. } = listening;
        let listener = listener(host, *port)
            .await
            .map_err(|error| format!("could not listen on {host}:{port}: {error}"))?;
        let place = listener.local_addr().map_err(|error| error.to_string())?;
        let again = Arc::clone(&keys);
        // Also where it was ignored: it ends nothing here.
        let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                again.reload();
            }
        });
        tracing::info!("listening on {place}");
        notify(&[NotifyState::Ready]);
        let stop = async {
            any_signal([SignalKind::interrupt(), SignalKind::terminate()]).await;
            notify(&[NotifyState::Stopping]);
            tracing::info!("stopping: the sessions that are left are ended");
        };
        listen(options, listener, keys, stop).await;
        Ok(())
    });
    runtime.shutdown_background();
    result
}

/// The socket that systemd handed over, or a new one.
async fn listener(host: &str, port: u16) -> std::io::Result<TcpListener> {
    match ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        }
        None => TcpListener::bind((host, port)).await,
    }
}

/// Tells systemd, if it started this process.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!("systemd cannot be told: {error}");
    }
}

/// An agent reads and answers. Before any thread is started: they have the same rights then.
fn give_up_writing() {
    match confine::to_writing_beneath::<&str>([]) {
        Ok(Confined::Wholly | Confined::Partly) => {}
        Ok(Confined::No) => {
            tracing::info!("the kernel has no Landlock: that nothing is written is not enforced");
        }
        Err(error) => tracing::warn!("that nothing is written is not enforced: {error}"),
    }
}

fn runtime() -> Result<Runtime, String> {
    Runtime::new().map_err(|error| format!("could not start threads: {error}"))
}
