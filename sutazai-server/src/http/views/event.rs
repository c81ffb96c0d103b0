//! Events on the wire: of one task, and of all tasks in one order.

use serde::Serialize;
use sutazai_core::{
    clock::Timestamp,
    task::{EventKind, NumberedEvent, TaskId},
};
use utoipa::ToSchema;

/// What happened to a task: the `data` of a server-sent event.
#[derive(ToSchema)]
#[schema(as = Event)]
#[allow(dead_code, reason = "describes core's `Event`, which knows nothing of OpenAPI")]
pub(in crate::http) struct EventView {
    /// Its number within the task, from 1 without gaps; also the `id` of the server-sent event.
    seq: u64,
    #[schema(value_type = String, format = Uuid)]
    task_id: String,
    /// Also the `event` of the server-sent event.
    #[schema(example = "task.completed")]
    r#type: String,
    #[schema(value_type = String, format = DateTime)]
    at: String,
    /// Details of this type.
    #[schema(value_type = Object)]
    data: (),
}

/// An event in the one order of all tasks.
#[derive(Serialize)]
pub(in crate::http) struct FeedEvent<'a> {
    seq: u64,
    task_id: TaskId,
    #[serde(flatten)]
    kind: &'a EventKind,
    at: Timestamp,
    task_seq: u64,
}

impl<'a> From<&'a NumberedEvent> for FeedEvent<'a> {
    fn from(numbered: &'a NumberedEvent) -> Self {
        let event = &numbered.event;
        Self { seq: numbered.number, task_id: event.task_id, kind: &event.kind, at: event.at, task_seq: event.seq }
    }
}

/// What happened to some task, in the one order of all tasks.
#[derive(ToSchema)]
#[schema(as = FeedEvent)]
#[allow(dead_code, reason = "describes `FeedEvent`, in which core's `EventKind` knows nothing of OpenAPI")]
pub(in crate::http) struct FeedEventView {
    /// Its place in the order of all events: grows, with gaps; also the `id` of a server-sent event.
    seq: u64,
    #[schema(value_type = String, format = Uuid)]
    task_id: String,
    /// Also the `event` of a server-sent event.
    #[schema(example = "task.completed")]
    r#type: String,
    #[schema(value_type = String, format = DateTime)]
    at: String,
    /// Details of this type.
    #[schema(value_type = Object)]
    data: (),
    /// Its number within its task, from 1 without gaps.
    task_seq: u64,
}

/// A page of events of all tasks.
#[derive(Serialize, ToSchema)]
#[schema(as = FeedList)]
pub(in crate::http) struct FeedList<'a> {
    /// The events.
    #[schema(value_type = Vec<FeedEventView>)]
    pub(in crate::http) items: Vec<FeedEvent<'a>>,
    /// What to send as `after` for the next page; null at the newest event.
    #[schema(required = true)]
    pub(in crate::http) next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use sutazai_core::task::Event;
    use utoipa::PartialSchema;

    use super::*;

    fn keys(value: &Value) -> Vec<String> {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    }

    #[test]
    fn the_described_events_have_the_fields_of_the_real_ones() {
        let id: TaskId = "019f3c2a-7d41-7000-8000-000000000000".parse().unwrap();
        let event = Event { seq: 1, task_id: id, at: Timestamp::from_millis(0), kind: EventKind::Completed {} };
        let real = serde_json::to_value(&event).unwrap();
        let described = serde_json::to_value(EventView::schema()).unwrap();
        assert_eq!(keys(&real), keys(&described["properties"]));
        let real = serde_json::to_value(FeedEvent::from(&NumberedEvent { number: 9, event })).unwrap();
        let described = serde_json::to_value(FeedEventView::schema()).unwrap();
        assert_eq!(keys(&real), keys(&described["properties"]));
        assert_eq!((&real["seq"], &real["task_seq"], &real["type"]), (&9.into(), &1.into(), &"task.completed".into()));
    }
}
