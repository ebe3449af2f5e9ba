//! Everything that a guard looks at, and a way to bend it, for tests.

use super::{Overrides, Situation, SlotWish, judge};
use crate::facts::{Condition, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::control::{ClusterState, ControlFile};
use crate::plan::refusal::Refusal;
use crate::plan::samples::{END, control, diverged_target, host, source};
use crate::plan::standby::Role;
use crate::plan::tablespaces::{Mapping, TargetPlaces};

/// Everything a guard looks at, owned, so that a test can bend it.
pub struct Scene {
    pub target: TargetFacts,
    pub source: SourceFacts,
    pub slot: SlotWish<'static>,
    pub mappings: Vec<Mapping>,
    pub places: TargetPlaces,
    pub overrides: Overrides,
    pub is_slot_targets: bool,
    pub is_typed: bool,
    pub max_wal_retained: Option<u64>,
    pub has_restore_command: bool,
    pub role: Role,
}

impl Scene {
    pub fn new() -> Self {
        Self {
            target: diverged_target(),
            source: source(),
            slot: SlotWish::Temporary,
            mappings: Vec::new(),
            places: TargetPlaces {
                pgdata: b"/srv/a".to_vec(),
                ..TargetPlaces::default()
            },
            overrides: Overrides::default(),
            is_slot_targets: false,
            is_typed: false,
            max_wal_retained: None,
            has_restore_command: false,
            role: Role::Standby,
        }
    }

    pub fn situation(&self) -> Situation<'_> {
        Situation {
            target: &self.target,
            source: &self.source,
            slot: self.slot,
            mappings: &self.mappings,
            places: &self.places,
            overrides: &self.overrides,
            local: &[],
            is_slot_targets: self.is_slot_targets,
            is_typed: self.is_typed,
            max_wal_retained: self.max_wal_retained,
            has_restore_command: self.has_restore_command,
            role: self.role,
        }
    }

    pub fn cluster(&mut self) -> &mut TargetCluster {
        match &mut self.target.condition {
            Condition::Cluster(cluster) => cluster,
            other => panic!("no cluster: {other:?}"),
        }
    }

    pub fn control(&mut self) -> &mut ControlFile {
        self.cluster().control.as_mut().unwrap()
    }

    pub fn on_one_kernel(&mut self) -> &mut Self {
        self.target.host = host("b");
        self.places.is_same_kernel = true;
        self
    }
}

pub fn refused(bend: impl FnOnce(&mut Scene)) -> Vec<&'static str> {
    let mut scene = Scene::new();
    bend(&mut scene);
    match judge(&scene.situation()) {
        Ok(_) => Vec::new(),
        Err(refusals) => refusals.iter().map(Refusal::name).collect(),
    }
}

pub type Bend = fn(&mut Scene);

/// The target has more WAL than the source, on its timeline.
pub fn ahead(scene: &mut Scene) {
    let history = scene.source.history.clone();
    let cluster = scene.cluster();
    cluster.control = Some(control(2, END.0 + 0x28, ClusterState::ShutDown));
    cluster.history = history;
}
