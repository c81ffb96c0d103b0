//! The store traits: what a backend must do and what it guarantees.

mod answer;
mod budget;
mod task;
mod vector;

pub use self::{
    answer::{AnswerCache, AnswerKey, CachedAnswer},
    budget::{Account, Amounts, BudgetStore, Day, Draw, Drawn, Limits, Measure},
    task::{
        Child, Claim, Delivery, Ended, Granted, Held, JournalCopy, KEY_LIFE, KeptAnswer, NodeRecord, POST_LIFE, Page,
        Posted, QueueDepths, Recalled, ScheduleRecord, StoreInfo, TaskQuery, TaskStore, TaskWrite, WakeUp,
        WriteOutcome,
    },
    vector::{CollectionSpec, Filter, Selector, VectorCapabilities, VectorHit, VectorQuery, VectorRecord, VectorStore},
};
