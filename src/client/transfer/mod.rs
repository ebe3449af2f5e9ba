//! What moves: both sides' lists become work, the work becomes ranges, and what differs in them is asked for,
//! proven and written, or only counted.

pub mod aside;
pub mod error;
pub mod here;
pub mod judge;
mod land;
mod lately;
pub mod lists;
mod near;
mod own;
pub mod places;
pub mod ranges;
mod reply;
pub mod rights;
pub mod sink;
pub mod streams;
pub mod task;
pub mod whole;
pub mod work;
