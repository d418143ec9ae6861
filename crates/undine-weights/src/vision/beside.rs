//! Which of the vision towers beside a model file is the model's: by names, because towers of different
//! models fit each other's widths and then see nothing right.

use std::path::{Path, PathBuf};

use super::attach;
use crate::checkpoint::Checkpoint;
use crate::config_gguf::Metadata;
use crate::gguf::GgufHeader;
use crate::map::Bytes;
use crate::place;

/// Words of names that do not say which model it is: types, parts of types, and what kind of file it is.
const PLAIN_WORDS: [&str; 18] = [
    "mmproj", "model", "gguf", "f16", "fp16", "bf16", "f32", "fp32", "0", "1", "k", "m", "s", "l", "xl",
    "xs", "nl", "ud",
];
/// Base models that metadata lists and that are asked for their names.
const BASES_MAX: usize = 4;

/// What a name says of a member of the family.
#[derive(Clone, PartialEq, Debug, Default)]
struct Member {
    /// `lfm2` or `lfm2.5`.
    family: Option<String>,
    /// Such as `1.6b`.
    size: Option<String>,
    sees: bool,
}

/// A tower that may be the model's.
struct Candidate {
    path: PathBuf,
    bytes: Bytes,
    words: Vec<String>,
    member: Member,
}

fn words(name: &str) -> Vec<String> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".gguf").unwrap_or(&name);
    let is_type = |word: &str| {
        let digits = word.strip_prefix("iq").or_else(|| word.strip_prefix('q'));
        digits.is_some_and(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))
    };
    let is_telling = |word: &&str| !word.is_empty() && !PLAIN_WORDS.contains(word) && !is_type(word);
    name.split(['-', '_', ' ', '/', ':']).filter(is_telling).map(str::to_owned).collect()
}

impl Member {
    fn of_words(words: &[String]) -> Self {
        let is_size = |word: &&String| {
            word.strip_suffix(['b', 'm']).is_some_and(|number| number.parse::<f32>().is_ok())
        };
        let family = words.iter().find(|word| *word == "lfm2" || *word == "lfm2.5").cloned();
        let has_family = family.is_some();
        Self {
            size: words.iter().find(is_size).filter(|_| has_family).cloned(),
            sees: has_family && words.iter().any(|word| word == "vl" || word == "vlm"),
            family,
        }
    }

    /// The first of some names that says which member it is.
    fn of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let members = names.into_iter().map(|name| Self::of_words(&words(name)));
        members.into_iter().find(|member| member.family.is_some()).unwrap_or_default()
    }

    fn is_text(&self) -> bool {
        self.family.is_some() && !self.sees
    }

    fn contradicts(&self, other: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        differ(&self.family, &other.family) || differ(&self.size, &other.size)
    }
}

impl Candidate {
    fn open(path: PathBuf) -> Option<Self> {
        let bytes = Bytes::map(&path).ok()?;
        let header = GgufHeader::read(&bytes).ok()?;
        let metadata = Metadata::new(&header.metadata);
        let file = path.file_name()?.to_string_lossy().into_owned();
        let bases = (0..BASES_MAX).map(|at| format!("general.base_model.{at}.name"));
        let keys = ["general.name".to_owned()].into_iter().chain(bases);
        let stated: Vec<&str> = keys.filter_map(|key| metadata.text(&key).ok().flatten()).collect();
        let member = Member::of_names(stated.into_iter().chain([file.as_str()]));
        Some(Self { words: words(&file), member, path, bytes })
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// How many words of the name are those of the model, less those that are not.
    fn likeness(&self, model: &[String]) -> isize {
        let shared = self.words.iter().filter(|word| model.contains(word)).count() as isize;
        let strange = self.words.len() as isize - shared;
        2 * shared - strange
    }
}

/// Mmproj files in the folder of a model file, by name.
fn find(model: &Path) -> Vec<PathBuf> {
    let folder = match model.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let names = place::names(folder);
    names
        .iter()
        .filter(|name| place::is_mmproj(name))
        .map(|name| folder.join(name))
        .filter(|path| path != model)
        .collect()
}

/// Adds the tower beside `path` that is the model's. One that by its name or its metadata is another's stays
/// where it is, and so does every tower beside a model whose name says that it is one for text.
pub(crate) fn attach_beside(checkpoint: &mut Checkpoint, path: &Path) {
    let files = find(path);
    let count = files.len();
    let mut found: Vec<Candidate> = files.into_iter().filter_map(Candidate::open).collect();
    let model = words(&checkpoint.file_name);
    let member = Member::of_names([checkpoint.name.as_str(), checkpoint.file_name.as_str()]);
    let is_named_alike = |candidate: &Candidate| !model.is_empty() && candidate.words == model;
    let mut refused = Vec::new();
    found.retain(|candidate| {
        let keep = is_named_alike(candidate) || !(member.is_text() || member.contradicts(&candidate.member));
        if !keep {
            refused.push(candidate.name());
        }
        keep
    });
    // Sorting is stable: of two that are as like, the first by name comes first.
    found.sort_by_key(|candidate| (!is_named_alike(candidate), -candidate.likeness(&model)));
    let mut used = None;
    for candidate in found {
        let name = candidate.name();
        if attach(checkpoint, candidate.bytes).is_ok() {
            used = Some(name);
            break;
        }
    }
    match used {
        Some(used) if count > 1 => checkpoint.repairs.push(format!(
            "Of {count} vision towers beside the model the one is used that is named most like it and fits: {used}."
        )),
        None if !refused.is_empty() => {
            let why = match member.is_text() {
                true => "this is a text model by its name".to_owned(),
                false => "by their names they are another model's".to_owned(),
            };
            let (names, name) = (place::listed(&refused), &checkpoint.name);
            checkpoint.repairs.push(format!(
                "Vision towers beside {name} are not used: {names}; {why}, and --mmproj FILE names one that is to be used."
            ));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_member_it_is() {
        let member = |family: &str, size: &str, sees| Member {
            family: Some(family.to_owned()),
            size: Some(size.to_owned()).filter(|size| !size.is_empty()),
            sees,
        };
        for (name, expected) in [
            ("LFM2-VL-1.6B-Q4_0.gguf", member("lfm2", "1.6b", true)),
            ("mmproj-LFM2.5-VL-450M-Q8_0.gguf", member("lfm2.5", "450m", true)),
            ("LFM2 VL 450M", member("lfm2", "450m", true)),
            ("LiquidAI/LFM2-1.2B", member("lfm2", "1.2b", false)),
            ("LFM2.5-8B-A1B-Q4_K_M", member("lfm2.5", "8b", false)),
            ("lfm2-vl", member("lfm2", "", true)),
            ("mmproj-model-f16.gguf", Member::default()),
            ("my-cat-7b", Member::default()),
        ] {
            assert_eq!(Member::of_words(&words(name)), expected, "{name}");
        }
    }
}
