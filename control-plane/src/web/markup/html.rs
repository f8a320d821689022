//! Reads HTML into tags: enough for our own well-formed output, and strict about it.

/// One start tag with its attributes.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    /// Names of the elements it stands in, outermost first.
    pub(super) inside: Vec<String>,
    /// Text until the matching end tag, without tags.
    pub(super) text: String,
}

impl Tag {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All start tags in order, and what was wrong with the nesting.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) tags: Vec<Tag>,
    pub(super) faults: Vec<String>,
}

const VOID: [&str; 8] = ["area", "br", "hr", "img", "input", "link", "meta", "wbr"];

pub(super) fn read(html: &str) -> Document {
    let mut document = Document::default();
    let mut open: Vec<usize> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        add_text(&mut document, &open, &rest[..at]);
        rest = &rest[at + 1..];
        if rest.starts_with('!') {
            rest = rest.split_once('>').map_or("", |(_, after)| after);
        } else if let Some(end) = rest.strip_prefix('/') {
            let (name, after) = end.split_once('>').unwrap_or((end, ""));
            close(&mut document, &mut open, name.trim());
            rest = after;
        } else {
            let (tag, self_closed, after) = start(rest);
            rest = after;
            let inside = open.iter().map(|at| document.tags[*at].name.clone()).collect();
            let void = self_closed || VOID.contains(&tag.name.as_str());
            document.tags.push(Tag { inside, ..tag });
            if !void {
                open.push(document.tags.len() - 1);
            }
        }
    }
    for at in open {
        let name = document.tags[at].name.clone();
        document.faults.push(format!("<{name}> is never closed"));
    }
    document
}

fn add_text(document: &mut Document, open: &[usize], text: &str) {
    for at in open {
        document.tags[*at].text.push_str(text);
    }
}

fn close(document: &mut Document, open: &mut Vec<usize>, name: &str) {
    match open.pop() {
        Some(at) if document.tags[at].name == name => {}
        Some(at) => {
            let expected = document.tags[at].name.clone();
            document.faults.push(format!("</{name}> closes <{expected}>"));
        }
        None => document.faults.push(format!("</{name}> closes nothing")),
    }
}

/// Reads one start tag; `rest` begins behind its `<`.
fn start(rest: &str) -> (Tag, bool, &str) {
    let name_end = rest.find(|c: char| c.is_whitespace() || c == '>' || c == '/').unwrap_or(rest.len());
    let mut tag = Tag {
        name: rest[..name_end].to_ascii_lowercase(),
        attributes: Vec::new(),
        inside: Vec::new(),
        text: String::new(),
    };
    let mut rest = rest[name_end..].trim_start();
    loop {
        if let Some(after) = rest.strip_prefix("/>") {
            return (tag, true, after);
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (tag, false, after);
        }
        if rest.is_empty() {
            return (tag, false, rest);
        }
        let key_end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | '>')).unwrap_or(rest.len());
        let key = rest[..key_end].to_ascii_lowercase();
        rest = &rest[key_end..];
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix("=\"") {
            let (inner, after) = after.split_once('"').unwrap_or((after, ""));
            value = inner.to_owned();
            rest = after;
        }
        tag.attributes.push((key, value));
        rest = rest.trim_start();
    }
}
