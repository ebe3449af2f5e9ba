//! A source with tablespaces and a target with places, and what comes of both, for tests.

use super::{Mapping, Place, PlaceState, Placement, TargetPlaces, resolve};
use crate::facts::{SourceFacts, Tablespace};
use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;
use crate::plan::samples::{identity, source};

pub const OTHER_HOST: bool = false;
pub const SAME_KERNEL: bool = true;

pub fn mapping(text: &str) -> Mapping {
    Mapping::parse(text.as_bytes()).unwrap()
}

pub fn source_with(tablespaces: Vec<Tablespace>) -> SourceFacts {
    SourceFacts {
        tablespaces,
        ..source()
    }
}

pub fn target_at(is_same_kernel: bool, places: &[(&str, PlaceState, Option<u64>)]) -> TargetPlaces {
    TargetPlaces {
        pgdata: b"/srv/a".to_vec(),
        is_same_kernel,
        places: places
            .iter()
            .map(|(path, state, inode)| {
                let place = Place {
                    state: state.clone(),
                    identity: inode.map(identity),
                    sharer: None,
                };
                (path.as_bytes().to_vec(), place)
            })
            .collect(),
        ..TargetPlaces::default()
    }
}

pub fn names(result: Result<Vec<Placement>, Vec<Refusal>>) -> Vec<&'static str> {
    match result {
        Ok(_) => Vec::new(),
        Err(refusals) => refusals.iter().map(Refusal::name).collect(),
    }
}

pub fn resolved(
    source: &SourceFacts,
    mappings: &[&str],
    target: &TargetPlaces,
) -> Result<Vec<Placement>, Vec<Refusal>> {
    let mappings: Vec<Mapping> = mappings.iter().map(|text| mapping(text)).collect();
    resolve(source, &mappings, target, &Overrides::default())
}
