//! Every field of the foreign forms does what its table says.
//!
//! `tests/fields/NAME.md` has one fenced `yaml` block of documents that load, and a table of fields
//! to set in them, one row at a time: `field | value | outcome | effect`.
//!
//! - The field is `KIND.path` into the only document of that kind, or `KIND(NAME).path`. Mappings
//!   and list items on the way are made where they are missing; a key with dots is written
//!   `["a.b/c"]`. `KIND` alone adds the value as one more document.
//! - The value is YAML in backticks; `null` counts as absent.
//! - The outcome is what loading says beyond what it says about the block alone:
//!   `exact` nothing; `inert` nothing, and the policy is the same; `warning SPnnnn` just these codes;
//!   `error SPnnnn` these, also when asked to degrade; `degradable SPnnnn` these, and when asked to
//!   degrade they are warnings. Several codes are separated by spaces.
//! - The effect, if not empty, is text in backticks that the services, as canonical native YAML, have
//!   in them, and those of the block alone do not have.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use splitter_user::policy::diagnostic::Diagnostic;
use splitter_user::policy::{Loaded, Source, load, native};

/// A file of documents and fields to set in them.
struct Table {
    name: String,
    base: Vec<Value>,
    rows: Vec<Row>,
}

/// A field, what it is set to, and what is to come of it.
struct Row {
    line: usize,
    field: String,
    value: Value,
    outcome: Outcome,
    effect: Option<String>,
}

/// What loading is to say beyond what it says about the block alone.
enum Outcome {
    Exact,
    Inert,
    Warning(BTreeSet<String>),
    Degradable(BTreeSet<String>),
    Error(BTreeSet<String>),
}

/// How a load ended.
type Ending = Result<Loaded, Vec<Diagnostic>>;

#[test]
fn fields_do_what_their_tables_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fields");
    let entries = fs::read_dir(folder).expect("tests/fields exists");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "there is no table");
    let failures: Vec<String> = paths.iter().flat_map(|path| check_file(path)).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn check_file(path: &Path) -> Vec<String> {
    let table = match read_table(path) {
        Ok(table) => table,
        Err(fault) => return vec![fault],
    };
    let base = match load_documents(&table.base, false) {
        Ok(base) => base,
        Err(diagnostics) => {
            return vec![format!("{}: the block fails:{}", table.name, shown(&diagnostics))];
        }
    };
    let fault = |row: &Row| {
        let fault = check_row(&table, &base, row).err()?;
        let Row { line, field, value, .. } = row;
        Some(format!("{}:{line}: {field} = {value}: {fault}", table.name))
    };
    table.rows.iter().filter_map(fault).collect()
}

// ---- Tables ----

fn read_table(path: &Path) -> Result<Table, String> {
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    let text = fs::read_to_string(path).map_err(|fault| format!("{name}: {fault}"))?;
    let mut block = String::new();
    let mut rows = Vec::new();
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            in_block = line == "```yaml";
        } else if in_block {
            block.push_str(line);
            block.push('\n');
        } else if line.starts_with('|') {
            rows.extend(
                read_row(index + 1, line).map_err(|f| format!("{name}:{}: {f}", index + 1))?,
            );
        }
    }
    if rows.is_empty() {
        return Err(format!("{name}: the table has no rows"));
    }
    let base: Vec<Value> =
        serde_yaml::from_multiple(&block).map_err(|fault| format!("{name}: the block: {fault}"))?;
    Ok(Table { name, base, rows })
}

/// A row; `None` for the head of the table and the line below it.
fn read_row(line: usize, text: &str) -> Result<Option<Row>, String> {
    let cells = split_cells(text);
    let [field, value, outcome, effect] = &cells[..] else {
        return Err(format!("a row has 4 cells, not {}", cells.len()));
    };
    if field == "field" || field.chars().all(|c| matches!(c, '-' | ':' | ' ')) {
        return Ok(None);
    }
    let value = unquote(value).ok_or("the value is not in backticks")?;
    let value = serde_yaml::from_str(value).map_err(|fault| format!("the value: {fault}"))?;
    let field = unquote(field).unwrap_or(field).to_owned();
    let effect = unquote(effect).map(str::to_owned);
    Ok(Some(Row { line, field, value, outcome: read_outcome(outcome)?, effect }))
}

/// The cells of a row; a bar between backticks does not end one.
fn split_cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().trim_start_matches('|').chars() {
        quoted ^= c == '`';
        match cells.last_mut() {
            Some(cell) if quoted || c != '|' => cell.push(c),
            _ => cells.push(String::new()),
        }
    }
    // The bar at the end of the line opened one too many.
    cells.pop();
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

fn unquote(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

fn read_outcome(cell: &str) -> Result<Outcome, String> {
    let mut words = cell.split_whitespace();
    let word = words.next().unwrap_or_default();
    let codes: BTreeSet<String> = words.map(str::to_owned).collect();
    let wants_codes = !matches!(word, "exact" | "inert");
    let are_codes = codes.iter().all(|code| code.starts_with("SP") && code.len() == 6);
    if wants_codes == codes.is_empty() || !are_codes {
        return Err(format!("`{cell}` is not an outcome"));
    }
    match word {
        "exact" => Ok(Outcome::Exact),
        "inert" => Ok(Outcome::Inert),
        "warning" => Ok(Outcome::Warning(codes)),
        "degradable" => Ok(Outcome::Degradable(codes)),
        "error" => Ok(Outcome::Error(codes)),
        _ => Err(format!("`{cell}` is not an outcome")),
    }
}

// ---- Rows ----

fn check_row(table: &Table, base: &Loaded, row: &Row) -> Result<(), String> {
    let mut documents = table.base.clone();
    set_field(&mut documents, row)?;
    let strict = load_documents(&documents, false);
    let degraded = load_documents(&documents, true);
    let none = BTreeSet::new();
    let loaded = match &row.outcome {
        Outcome::Exact | Outcome::Inert => expect_loaded(strict, base, &none)?,
        Outcome::Warning(codes) => expect_loaded(strict, base, codes)?,
        Outcome::Degradable(codes) => {
            expect_failed(&strict, base, codes)?;
            expect_loaded(degraded, base, codes).map_err(|fault| format!("degraded: {fault}"))?
        }
        Outcome::Error(codes) => {
            expect_failed(&strict, base, codes)?;
            let still = if degraded.is_err() { Ok(()) } else { Err("degraded: loads".to_owned()) };
            return still;
        }
    };
    if matches!(row.outcome, Outcome::Inert) && loaded.policy != base.policy {
        return Err(format!("the policy differs:\n{}", yaml(&loaded)));
    }
    row.effect.as_ref().map_or(Ok(()), |effect| expect_effect(effect, base, &loaded))
}

fn expect_loaded(
    ending: Ending,
    base: &Loaded,
    codes: &BTreeSet<String>,
) -> Result<Loaded, String> {
    let loaded = ending.map_err(|diagnostics| format!("fails:{}", shown(&diagnostics)))?;
    expect_codes(&loaded.warnings, base, codes)?;
    Ok(loaded)
}

fn expect_failed(ending: &Ending, base: &Loaded, codes: &BTreeSet<String>) -> Result<(), String> {
    match ending {
        Ok(loaded) => Err(format!("loads, with:{}", shown(&loaded.warnings))),
        Err(diagnostics) => expect_codes(diagnostics, base, codes),
    }
}

/// Checks what was said more often than about the block alone.
fn expect_codes(
    diagnostics: &[Diagnostic],
    base: &Loaded,
    codes: &BTreeSet<String>,
) -> Result<(), String> {
    let count = |list: &[Diagnostic], code: &str| list.iter().filter(|d| d.code == code).count();
    let is_new = |code| count(diagnostics, code) > count(&base.warnings, code);
    let new = diagnostics.iter().map(|d| d.code).filter(|code| is_new(code));
    let new: BTreeSet<String> = new.map(str::to_owned).collect();
    if new == *codes { Ok(()) } else { Err(format!("says{}", shown(diagnostics))) }
}

fn expect_effect(effect: &str, base: &Loaded, loaded: &Loaded) -> Result<(), String> {
    let text = yaml(loaded);
    if yaml(base).contains(effect) {
        Err(format!("`{effect}` is there without the field"))
    } else if text.contains(effect) {
        Ok(())
    } else {
        Err(format!("there is no `{effect}` in:\n{text}"))
    }
}

fn yaml(loaded: &Loaded) -> String {
    loaded.policy.services.iter().map(native::to_yaml).collect()
}

fn shown(diagnostics: &[Diagnostic]) -> String {
    let line = |d: &Diagnostic| format!("\n    {} {}", d.code, d.message);
    let lines: String = diagnostics.iter().map(line).collect();
    if lines.is_empty() { " nothing".to_owned() } else { lines }
}

fn load_documents(documents: &[Value], degrade: bool) -> Ending {
    let texts: Vec<String> = documents.iter().map(Value::to_string).collect();
    let mut source = Source::new("-", texts.join("\n---\n"));
    source.reading.degrade = degrade;
    load(&[source])
}

// ---- Paths ----

fn set_field(documents: &mut Vec<Value>, row: &Row) -> Result<(), String> {
    let Some((kind, path)) = row.field.split_once('.') else {
        documents.push(row.value.clone());
        return Ok(());
    };
    let mut place = find_document(documents, kind)?;
    for step in read_path(path)? {
        place = step.enter(place).ok_or_else(|| format!("`{path}` leads through a scalar"))?;
    }
    *place = row.value.clone();
    Ok(())
}

fn find_document<'a>(documents: &'a mut [Value], kind: &str) -> Result<&'a mut Value, String> {
    let (kind, name) = match kind.strip_suffix(')').and_then(|kind| kind.split_once('(')) {
        Some((kind, name)) => (kind, Some(name)),
        None => (kind, None),
    };
    let is_meant = |document: &&mut Value| {
        document["kind"] == kind && name.is_none_or(|name| document["metadata"]["name"] == name)
    };
    let mut found: Vec<&mut Value> = documents.iter_mut().filter(is_meant).collect();
    match (found.pop(), found.is_empty()) {
        (Some(document), true) => Ok(document),
        (None, _) => Err(format!("no document of the block is a `{kind}`")),
        _ => Err(format!("several documents are a `{kind}`: write `{kind}(NAME)`")),
    }
}

/// One step down from a value.
enum Step {
    Key(String),
    Item(usize),
}

impl Step {
    /// The value one step down, made where it is missing. `None` where there cannot be one.
    fn enter<'a>(&self, value: &'a mut Value) -> Option<&'a mut Value> {
        match self {
            Self::Key(key) => {
                if value.is_null() {
                    *value = Value::Object(serde_json::Map::new());
                }
                Some(value.as_object_mut()?.entry(key).or_insert(Value::Null))
            }
            Self::Item(index) => {
                if value.is_null() {
                    *value = Value::Array(Vec::new());
                }
                let items = value.as_array_mut()?;
                items.resize(items.len().max(index + 1), Value::Null);
                items.get_mut(*index)
            }
        }
    }
}

/// Reads `a.b[0]["c.d"]`.
fn read_path(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let fault = || format!("`{path}` is not a path");
        if let Some(after) = rest.strip_prefix("[\"") {
            let (key, after) = after.split_once("\"]").ok_or_else(fault)?;
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']').ok_or_else(fault)?;
            steps.push(Step::Item(index.parse().map_err(|_| fault())?));
            rest = after;
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let (key, after) = after.split_at(after.find(['.', '[']).unwrap_or(after.len()));
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        }
    }
    Ok(steps)
}
