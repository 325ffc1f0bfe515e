//! Rust source as far as this test needs it: code without comments, strings and tests, and the
//! paths in it that begin at the crate's root.

use std::path::{Path, PathBuf};

/// A source file of a crate.
pub(crate) struct Source {
    /// Relative to the crate's `src`.
    pub(crate) path: PathBuf,
    /// Its code. Comments, strings and test code are gone.
    pub(crate) code: String,
}

impl Source {
    /// The modules that lead to this file: `plan/step.rs` is `["plan", "step"]`.
    pub(crate) fn modules(&self) -> Vec<String> {
        let mut parts: Vec<_> =
            self.path.iter().map(|part| part.to_string_lossy().replace(".rs", "")).collect();
        if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            parts.pop();
        }
        parts
    }

    /// Every path from the crate's root, two segments deep: `backend::sim`.
    pub(crate) fn root_paths(&self) -> Vec<Vec<String>> {
        let tokens = tokens(&self.code);
        let depth = self.modules().len();
        let mut found = Vec::new();
        for (at, &token) in tokens.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| tokens[before]);
            let rest = match token {
                "crate" | "gpushare_core" if before != Some("(") => 1,
                // As many `super` as there are modules lead to the root.
                "super" if before != Some("::") => {
                    let mut supers = 1;
                    while tokens[at..].get(2 * supers) == Some(&"super") {
                        supers += 1;
                    }
                    if supers < depth {
                        continue;
                    }
                    2 * supers - 1
                }
                _ => continue,
            };
            if tokens.get(at + rest) == Some(&"::") {
                tree(&tokens[at + rest + 1..], &[], &mut found);
            }
        }
        found
    }

    /// Whether the code has that word.
    pub(crate) fn has_word(&self, word: &str) -> bool {
        tokens(&self.code).contains(&word)
    }
}

/// Reads a use tree or a path; says how many tokens it took.
fn tree(tokens: &[&str], before: &[&str], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    loop {
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while let Some(&token) = tokens.get(at) {
                    match token {
                        "}" => return at + 1,
                        "," => at += 1,
                        _ => at += tree(&tokens[at..], &path, found).max(1),
                    }
                }
                return at;
            }
            Some(&name) => {
                path.push(name);
                at += 1;
                if tokens.get(at) != Some(&"::") {
                    break;
                }
                at += 1;
            }
            None => break,
        }
    }
    found.push(path.iter().take(2).map(|&name| name.to_owned()).collect());
    // `as name`
    if tokens.get(at) == Some(&"as") { at + 2 } else { at }
}

/// Words, `::`, and single signs.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() {
            tokens.push(token);
        }
        rest = after;
    }
    tokens
}

/// Every file of the crate that is no test.
pub(crate) fn sources(src: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    collect(src, &mut files);
    files.sort();
    let mut tests = Vec::new();
    let mut sources = Vec::new();
    for file in files {
        let (code, test_modules) =
            without_tests(&code_of(&std::fs::read_to_string(&file).unwrap()));
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder = match stem.as_str() {
            "mod" | "lib" | "main" => file.parent().unwrap().to_owned(),
            _ => file.with_extension(""),
        };
        for module in test_modules {
            tests.push(folder.join(format!("{module}.rs")));
            tests.push(folder.join(module));
        }
        sources.push(Source { path: file.strip_prefix(src).unwrap().to_owned(), code });
    }
    sources.retain(|source| !tests.iter().any(|test| src.join(&source.path).starts_with(test)));
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What stands before tests, and before what is there for fuzzers: both reach into every room. Strings are empty.
const MARKS: [&str; 3] = [
    "#[cfg(test)]",
    "#[cfg(any(test, fuzzing))]",
    "#[cfg(all(any(test, fuzzing), feature = \"\"))]",
];

/// The code without what stands under one of [`MARKS`], and the test modules in files of their own.
pub(crate) fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut kept = String::new();
    let mut modules = Vec::new();
    let mut rest = code;
    while let Some(at) = MARKS.iter().filter_map(|mark| rest.find(mark)).min() {
        let (before, item) = rest.split_at(at);
        kept.push_str(before);
        // The item ends at its first `;` or at the end of its first block, attributes aside.
        let (mut depth, mut square) = (0usize, 0usize);
        let mut end = item.len();
        for (i, c) in item.char_indices() {
            match c {
                '[' => square += 1,
                ']' => square = square.saturating_sub(1),
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if square == 0 && depth == 0 && matches!(c, ';' | '}') {
                end = i + 1;
                break;
            }
        }
        let (item, after) = item.split_at(end);
        if let [.., "mod", name, ";"] = tokens(item)[..] {
            modules.push(name.to_owned());
        }
        rest = after;
    }
    kept.push_str(rest);
    (kept, modules)
}

/// The code without comments, and with empty strings and character literals.
pub(crate) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut code = String::new();
    let mut i = 0;
    while i < chars.len() {
        let word_before = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
            code.push_str("\"\"");
        } else if let Some(hashes) = raw_string(&chars[i..]).filter(|_| !word_before) {
            i += 1 + hashes + 1;
            let closing: Vec<char> = std::iter::once('"').chain(vec!['#'; hashes]).collect();
            while i < chars.len() && !chars[i..].starts_with(&closing) {
                i += 1;
            }
            i += closing.len();
            code.push_str("\"\"");
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A lifetime has no closing quote right after its first letter.
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
            code.push_str("' '");
        } else {
            code.push(c);
            i += 1;
        }
    }
    code
}

/// How many `#` open a raw string here, if one opens: `r#"`.
fn raw_string(chars: &[char]) -> Option<usize> {
    let (first, rest) = chars.split_first()?;
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    (*first == 'r' && rest.get(hashes) == Some(&'"')).then_some(hashes)
}
