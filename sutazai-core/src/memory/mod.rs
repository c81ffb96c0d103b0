//! Reference backends that live in memory: complete, and gone with the process.
