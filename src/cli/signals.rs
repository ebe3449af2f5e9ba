//! Signals that ask to stop, and the one that asks how far a run is. One that was ignored when the process started stays ignored: `nohup`, and shells that
//! put a command into the background, say so that a run shall outlive its terminal.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Where the kernel tells what this process ignores (`proc_pid_status(5)`).
const STATUS: &str = "/proc/self/status";

/// Waits for a signal that asks to stop.
pub(super) async fn stop_signal() {
    any_signal([
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ])
    .await;
}

/// Waits for one of these signals, but for those that are ignored. Forever, if all are.
pub(super) async fn any_signal<const N: usize>(kinds: [SignalKind; N]) {
    let ignored = ignored_here();
    let mut signals: Vec<_> = kinds
        .into_iter()
        .filter(|kind| !contains(ignored, *kind))
        .map(signal)
        .collect();
    if signals.is_empty() {
        return std::future::pending().await;
    }
    let waiting = signals.iter_mut().map(|signal| {
        Box::pin(async move {
            match signal {
                Ok(signal) => signal.recv().await,
                // Without a handler the signal ends the process, as it does by default.
                Err(_) => std::future::pending().await,
            }
        })
    });
    futures_util::future::select_all(waiting).await;
}

/// SIGUSR1, which asks how far a run is.
pub(super) struct Question(Option<Signal>);

impl Question {
    /// Begins to listen. Must be called inside a runtime.
    pub(super) fn listen() -> Self {
        let kind = SignalKind::user_defined1();
        if contains(ignored_here(), kind) {
            return Self(None);
        }
        Self(signal(kind).ok())
    }

    /// Waits until somebody asks.
    pub(super) async fn next(&mut self) {
        let heard = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Lets a question end nothing from here on: the handler that tokio installs stays for the life of the process. To be
/// called before anything else is done.
pub(super) fn survive_questions() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    // Without a runtime there is no run either.
    if let Ok(runtime) = runtime {
        let _inside = runtime.enter();
        Question::listen();
    }
}

/// The set of signals that this process ignores. One that has a handler by now was not ignored, so that asking late is
/// not too late.
fn ignored_here() -> u64 {
    std::fs::read_to_string(STATUS).map_or(0, |status| ignored(&status))
}

/// The set of ignored signals of a process's status: bit 0 is signal 1. Empty where it is not told.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn contains(set: u64, kind: SignalKind) -> bool {
    let number = kind.as_raw_value();
    (1..=64).contains(&number) && set >> (number - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\nSigCgt:\t0\n";
        let set = ignored(status);
        for (kind, is_ignored) in [
            (SignalKind::hangup(), true),
            (SignalKind::interrupt(), true),
            (SignalKind::pipe(), true),
            (SignalKind::terminate(), false),
            (SignalKind::quit(), false),
        ] {
            assert_eq!(contains(set, kind), is_ignored, "{kind:?}");
        }
        assert_eq!(ignored("Name:\tx\n"), 0);
        assert_eq!(ignored("SigIgn:\twhat\n"), 0);
    }
}
