//! What somebody sees who looks at the desk.

use std::time::Duration;

use sutazai_core::model::ModelInfo;

use super::{ModelView, Moment, Residence, Shared};
use crate::gateway::admission::{Held, Status};

impl Shared {
    /// Requests that wait, those that run, and the names of the models in memory.
    pub(in crate::gateway::admission) fn status(&self) -> Status {
        let desk = self.desk();
        let inside = desk.views.iter().zip(&desk.models).filter(|(view, model)| match view.residence {
            Residence::Out => false,
            Residence::Loading | Residence::In(_) => true,
            Residence::Leaving => model.is_here,
        });
        Status {
            waiting: desk.waiting.len(),
            running: desk.views.iter().map(|view| view.running).sum(),
            loaded: inside.map(|(_, model)| model.resident.info().name.clone()).collect(),
        }
    }

    /// The models that are known to be in memory.
    pub(in crate::gateway::admission) fn held(&self) -> Vec<Held> {
        let (now, keep) = (self.now(), self.config.keep);
        let desk = self.desk();
        let here = desk.views.iter().zip(&desk.models).filter(|(_, model)| model.is_here);
        let held = here.filter_map(|(view, model)| {
            let left = match keep {
                Some(keep) => Some(left(view, keep, now)?),
                None => None,
            };
            let info = model.resident.info().clone();
            let memory = (view.memory > 0).then_some(view.memory).or(info.memory);
            Some(Held { info: ModelInfo { memory, ..info }, left })
        });
        held.collect()
    }
}

/// How long a model stays that its backend keeps for so long; nothing if it has gone by itself.
fn left(view: &ModelView, keep: Duration, now: Moment) -> Option<Duration> {
    if view.running > 0 {
        return Some(keep);
    }
    keep.checked_sub(now.saturating_sub(view.used)).filter(|left| !left.is_zero())
}
