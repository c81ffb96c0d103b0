//! Tables of values as the arguments of a statement.
//!
//! One row goes as plain arguments and many as one array a column, so that a statement has the same text however many rows it is for, and the
//! database prepares it once.

use std::{borrow::Cow, fmt::Write as _};

use sqlx::{Arguments, Encode, Postgres, Type, postgres::PgArguments};
use sutazai_core::{clock::Timestamp, task::TaskId};
use uuid::Uuid;

use super::error::{Fault, Result};

/// A column: its name, its type, and what most rows have in it.
pub(super) type Column = (&'static str, Kind, Fill);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Something of their own.
    Own,
    /// The same as the others. If that holds for all rows and all of these columns, each goes as one plain argument.
    Same,
    /// Nothing. If no row has anything in any of these columns, all of them are left out.
    Rare,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Id,
    Int,
    Text,
    Float,
    Bool,
    Bytes,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Id => "uuid",
            Self::Int => "int8",
            Self::Text => "text",
            Self::Float => "float8",
            Self::Bool => "bool",
            Self::Bytes => "bytea",
        }
    }
}

#[derive(Clone, PartialEq)]
enum Cell<'a> {
    None,
    Id(Uuid),
    Int(i64),
    Text(Cow<'a, str>),
    Float(f64),
    Bool(bool),
    Bytes(&'a [u8]),
}

/// Rows of one shape.
pub(super) struct Table<'a> {
    columns: &'static [Column],
    /// Column after column within a row, row after row.
    cells: Vec<Cell<'a>>,
    rare: bool,
}

impl<'a> Table<'a> {
    pub(super) fn new(columns: &'static [Column], rows: usize) -> Self {
        Self { columns, cells: Vec::with_capacity(columns.len() * rows), rare: false }
    }

    fn push(&mut self, cell: Option<Cell<'a>>) {
        let (_, _, fill) = self.columns[self.cells.len() % self.columns.len()];
        self.rare |= fill == Fill::Rare && cell.is_some();
        self.cells.push(cell.unwrap_or(Cell::None));
    }

    pub(super) fn id(&mut self, id: impl Into<Option<TaskId>>) {
        self.push(id.into().map(|id| Cell::Id(uuid(id))));
    }

    pub(super) fn int(&mut self, value: impl Into<Option<i64>>) {
        self.push(value.into().map(Cell::Int));
    }

    pub(super) fn count(&mut self, value: u64) {
        self.push(Some(Cell::Int(value.cast_signed())));
    }

    /// A number that is mostly 0, which is kept as nothing.
    pub(super) fn some(&mut self, value: u64) {
        self.push((value != 0).then_some(Cell::Int(value.cast_signed())));
    }

    /// A flag that is mostly not set.
    pub(super) fn flag(&mut self, value: bool) {
        self.push(value.then_some(Cell::Bool(true)));
    }

    pub(super) fn float(&mut self, value: Option<f64>) {
        self.push(value.map(Cell::Float));
    }

    pub(super) fn time(&mut self, time: impl Into<Option<Timestamp>>) {
        self.push(time.into().map(|time| Cell::Int(time.as_millis())));
    }

    pub(super) fn bytes(&mut self, bytes: &'a [u8]) {
        self.push(Some(Cell::Bytes(bytes)));
    }

    /// Text that may be anything.
    pub(super) fn text(&mut self, text: impl Into<Option<&'a str>>) {
        self.push(text.into().map(|text| Cell::Text(escaped(text))));
    }

    /// Text without NUL characters, such as JSON.
    pub(super) fn plain(&mut self, text: impl Into<Option<Cow<'a, str>>>) {
        self.push(text.into().map(Cell::Text));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    pub(super) fn rows(&self) -> usize {
        self.cells.len() / self.columns.len()
    }

    /// Whether columns that are mostly left out are there.
    pub(super) fn is_whole(&self) -> bool {
        self.rare
    }

    /// The columns that are there.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let there = self.columns.iter().filter(|column| self.rare || column.2 != Fill::Rare);
        there.map(|column| column.0).collect()
    }

    /// What names a column in a statement.
    pub(super) fn value(&self, column: &Column) -> Cow<'static, str> {
        if column.2 == Fill::Rare && !self.rare { "NULL".into() } else { format!("v.{}", column.0).into() }
    }

    /// Whether the columns that are mostly the same are so in all rows.
    fn is_same(&self) -> bool {
        let same = |index: &usize| self.columns[*index].2 == Fill::Same;
        let same: Vec<usize> = (0..self.columns.len()).filter(same).collect();
        let mut rows = self.cells.chunks(self.columns.len());
        let first = rows.next().unwrap_or_default();
        !same.is_empty() && rows.all(|row| same.iter().all(|index| row.get(*index) == first.get(*index)))
    }

    /// Adds the rows to the arguments, and gives them the name `v`.
    pub(super) fn source(self, text: &mut Text) -> Result<()> {
        let columns = || self.columns.iter().enumerate().filter(|(_, column)| self.rare || column.2 != Fill::Rare);
        let cells = |index: usize| self.cells.iter().skip(index).step_by(self.columns.len());
        let plain = |text: &mut Text, index: usize, kind: Kind| -> Result<String> {
            text.cell(cells(index), kind)?;
            Ok(format!("${}::{}", text.arguments.len(), kind.name()))
        };
        let (mut values, mut names, mut rest) = (Vec::new(), Vec::new(), String::new());
        if self.rows() == 1 {
            for (index, (name, kind, _)) in columns() {
                values.push(plain(text, index, *kind)?);
                names.push(*name);
            }
            let _ = write!(text.sql, "(VALUES ({})) AS v({})", values.join(","), names.join(","));
            return Ok(());
        }
        let same = self.is_same();
        for (index, (name, kind, fill)) in columns() {
            if same && *fill == Fill::Same {
                let value = plain(text, index, *kind)?;
                let _ = write!(rest, ", {value} AS {name}");
            } else {
                text.cells(cells(index), *kind)?;
                values.push(format!("${}::{}[]", text.arguments.len(), kind.name()));
                names.push(*name);
            }
        }
        let (values, names) = (values.join(","), names.join(","));
        let _ = match same {
            true => write!(text.sql, "(SELECT u.*{rest} FROM unnest({values}) AS u({names})) AS v"),
            false => write!(text.sql, "unnest({values}) AS v({names})"),
        };
        Ok(())
    }
}

/// A statement being written.
#[derive(Default)]
pub(super) struct Text {
    pub(super) sql: String,
    pub(super) arguments: PgArguments,
}

impl Text {
    /// Adds one argument and gives its place.
    pub(super) fn add<'q, T: Encode<'q, Postgres> + Type<Postgres>>(&mut self, value: T) -> Result<usize> {
        self.arguments.add(value).map_err(|error| Fault::Driver(sqlx::Error::Encode(error)))?;
        Ok(self.arguments.len())
    }

    fn cell<'c, 'a: 'c>(&mut self, mut cells: impl Iterator<Item = &'c Cell<'a>>, kind: Kind) -> Result<()> {
        let cell = cells.next().unwrap_or(&Cell::None);
        match (cell, kind) {
            (Cell::Id(id), _) => self.add(*id),
            (Cell::Int(value), _) => self.add(*value),
            (Cell::Text(text), _) => self.add(&**text),
            (Cell::Float(value), _) => self.add(*value),
            (Cell::Bool(value), _) => self.add(*value),
            (Cell::Bytes(bytes), _) => self.add(*bytes),
            (Cell::None, Kind::Id) => self.add(None::<Uuid>),
            (Cell::None, Kind::Int) => self.add(None::<i64>),
            (Cell::None, Kind::Text) => self.add(None::<&str>),
            (Cell::None, Kind::Float) => self.add(None::<f64>),
            (Cell::None, Kind::Bool) => self.add(None::<bool>),
            (Cell::None, Kind::Bytes) => self.add(None::<&[u8]>),
        }?;
        Ok(())
    }

    fn cells<'c, 'a: 'c>(&mut self, cells: impl Iterator<Item = &'c Cell<'a>>, kind: Kind) -> Result<()> {
        macro_rules! column {
            ($of:ident) => {
                self.add(
                    cells
                        .map(|cell| if let Cell::$of(value) = cell { Some(value.clone()) } else { None })
                        .collect::<Vec<_>>(),
                )
            };
        }
        match kind {
            Kind::Id => column!(Id),
            Kind::Int => column!(Int),
            Kind::Text => self.add(
                cells.map(|cell| if let Cell::Text(text) = cell { Some(&**text) } else { None }).collect::<Vec<_>>(),
            ),
            Kind::Float => column!(Float),
            Kind::Bool => column!(Bool),
            Kind::Bytes => column!(Bytes),
        }?;
        Ok(())
    }
}

pub(super) fn uuid(id: TaskId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn uuids(ids: &[TaskId]) -> Vec<Uuid> {
    ids.iter().map(|id| uuid(*id)).collect()
}

/// A limit as the database takes it.
pub(super) fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Begins what stands for a character that the database cannot keep.
const ESCAPE: char = '\u{1}';

/// Text as the database can keep it: it takes every character but NUL.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte <= 1) {
        text.replace(ESCAPE, "\u{1}1").replace('\0', "\u{1}0").into()
    } else {
        text.into()
    }
}

/// What [`escaped`] was given.
pub(super) fn unescaped(text: &str) -> Cow<'_, str> {
    if text.contains(ESCAPE) { text.replace("\u{1}0", "\0").replace("\u{1}1", "\u{1}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back() {
        for text in ["", "plain", "\0", "\u{1}", "\u{1}0", "\u{1}1\0", "a\0\u{1}\u{1}0b"] {
            let kept = escaped(text);
            assert!(!kept.contains('\0'));
            assert_eq!(unescaped(&kept), text);
        }
    }

    #[test]
    fn what_all_rows_share_is_sent_once() {
        const COLUMNS: [Column; 3] =
            [("id", Kind::Int, Fill::Own), ("agent", Kind::Text, Fill::Same), ("node", Kind::Text, Fill::Same)];
        let source = |rows: &[(i64, &'static str)]| {
            let mut table = Table::new(&COLUMNS, rows.len());
            for (id, agent) in rows {
                table.int(*id);
                table.text(*agent);
                table.text(None::<&str>);
            }
            let mut text = Text::default();
            table.source(&mut text).ok().unwrap();
            text.sql
        };
        let shared = "(SELECT u.*, $2::text AS agent, $3::text AS node FROM unnest($1::int8[]) AS u(id)) AS v";
        assert_eq!(source(&[(1, "a"), (2, "a"), (3, "a")]), shared);
        assert_eq!(source(&[(1, "a"), (2, "b")]), "unnest($1::int8[],$2::text[],$3::text[]) AS v(id,agent,node)");
        assert_eq!(source(&[(1, "a")]), "(VALUES ($1::int8,$2::text,$3::text)) AS v(id,agent,node)");
    }
}
