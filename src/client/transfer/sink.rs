//! Where what moves goes: into the target, or nowhere.

use std::sync::Arc;

use crate::client::transfer::judge::Jury;
use crate::disk::root::Roots;
use crate::disk::target::ClosedTarget;

/// Where the bytes go.
#[derive(Clone)]
pub enum Sink {
    Target(Arc<ClosedTarget>),
    /// Only count what differs, in the directories of a target that stays as it is.
    Survey(Arc<Roots>),
    /// Judge what differs.
    Judge(Arc<Jury>),
}

impl Sink {
    pub fn roots(&self) -> &Roots {
        match self {
            Sink::Target(target) => target.roots(),
            Sink::Survey(roots) => roots,
            Sink::Judge(jury) => &jury.roots,
        }
    }

    pub fn target(&self) -> Option<&ClosedTarget> {
        match self {
            Sink::Target(target) => Some(target),
            Sink::Survey(_) | Sink::Judge(_) => None,
        }
    }
}
