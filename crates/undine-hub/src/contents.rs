//! Which files of a repository, or of its copy in the cache, make up the model that is meant.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::name::HubName;
use crate::quant::{self, Candidate};

/// The folder of chat templates beside the default one.
const TEMPLATES: &str = "additional_chat_templates";

/// A file of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Its path, with slashes.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// What to fetch or open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Selection {
    /// Indices of the files.
    pub files: Vec<usize>,
    /// The file to open; `None` is the folder.
    pub open: Option<String>,
    /// Its quantization.
    pub quant: Option<String>,
    /// Whether a model was meant, and not some file.
    pub is_model: bool,
}

/// A model in one GGUF file or in all parts of a split one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gguf {
    /// The path without part number and `.gguf`.
    pub stem: String,
    /// The quantization its name says.
    pub quant: Option<String>,
    /// Indices of its files, the first part first.
    pub files: Vec<usize>,
    /// All together.
    pub bytes: u64,
}

/// `stem-00002-of-00003`, the name of a part of a split file, to stem, number and count.
pub fn split_part(path: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = path.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse::<usize>().ok()).flatten();
    let (number, count) = (digits(number)?, digits(count)?);
    (number >= 1 && number <= count).then_some((stem, number, count))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn is_mmproj(path: &str) -> bool {
    path.ends_with(".gguf") && file_name(path).to_ascii_lowercase().contains("mmproj")
}

/// Every complete model in GGUF form, by size, the largest first.
pub(crate) fn ggufs(entries: &[Entry]) -> Vec<Gguf> {
    let mut parts: BTreeMap<(&str, usize), Vec<(usize, usize)>> = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        let is_other = is_mmproj(&entry.path) || file_name(&entry.path).contains("imatrix");
        let Some(path) = entry.path.strip_suffix(".gguf").filter(|_| !is_other) else { continue };
        let (stem, number, count) = split_part(path).unwrap_or((path, 1, 1));
        parts.entry((stem, count)).or_default().push((number, at));
    }
    let mut found: Vec<Gguf> = parts
        .into_iter()
        .filter(|((_, count), files)| files.len() == *count)
        .map(|((stem, _), mut files)| {
            files.sort_unstable();
            let files: Vec<usize> = files.into_iter().map(|(_, at)| at).collect();
            let bytes = files.iter().map(|&at| entries[at].bytes).sum();
            Gguf { stem: stem.to_owned(), quant: quant::of_stem(file_name(stem)), files, bytes }
        })
        .collect();
    // Of two with the same quantization, the one with the shorter name is the plain one.
    found.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.stem.len().cmp(&b.stem.len())));
    found
}

/// The vision tower that goes with a model: one that is named like it if there is one; of these one of the
/// same quantization, else the smallest of at least 8 bits.
fn mmproj(entries: &[Entry], gguf: &Gguf) -> Option<usize> {
    let beside =
        |at: &usize| is_mmproj(&entries[*at].path) && folder(&entries[*at].path) == folder(&gguf.stem);
    let mut found: Vec<usize> = (0..entries.len()).filter(beside).collect();
    let name = file_name(&gguf.stem).to_ascii_lowercase();
    let name =
        gguf.quant.as_ref().and_then(|quant| name.strip_suffix(&quant.to_ascii_lowercase())).unwrap_or(&name);
    let name = name.trim_end_matches(['-', '.', '_']);
    let is_named_alike = |at: &usize| file_name(&entries[*at].path).to_ascii_lowercase().contains(name);
    if found.iter().any(is_named_alike) {
        found.retain(is_named_alike);
    }
    let towers = || found.iter().copied();
    let quant_of = |at: &usize| quant::of_stem(file_name(entries[*at].path.trim_end_matches(".gguf")));
    let fine =
        |at: &usize| quant_of(at).and_then(|quant| quant::bits_per_weight(&quant)).unwrap_or(16.0) >= 8.0;
    let same = towers().find(|at| gguf.quant.is_some() && quant_of(at) == gguf.quant && fine(at));
    let smallest = || towers().filter(fine).min_by_key(|&at| entries[at].bytes);
    same.or_else(smallest).or_else(|| towers().max_by_key(|&at| entries[at].bytes))
}

/// Files that describe a repository, small and worth having.
fn is_card(path: &str) -> bool {
    path == "README.md" || path == "LICENSE" || path == "LICENSE.md" || path == "LICENSE.txt"
}

/// Files that a Hugging Face folder is opened with. Weights in other forms and subfolders are not.
fn is_of_folder(path: &str) -> bool {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    let is_template = folder(path) == TEMPLATES && extension == "jinja";
    is_template
        || !path.contains('/')
            && (["safetensors", "json", "jinja"].contains(&extension) || path == "tokenizer.model")
}

/// What a repository without weights that can be opened holds instead, and what to do.
fn other_form(entries: &[Entry]) -> Option<&'static str> {
    let has = |endings: &[&str]| {
        entries
            .iter()
            .any(|entry| endings.iter().any(|ending| entry.path.to_ascii_lowercase().ends_with(ending)))
    };
    let known = [
        (
            &[".onnx", ".onnx_data"][..],
            "these are ONNX files: take the repository without -ONNX, or its GGUF",
        ),
        (
            &[".bin", ".pt", ".pth", ".ckpt"],
            "these are PyTorch files: take a repository with safetensors, or its GGUF",
        ),
        (&[".npz"], "these are MLX files of an early form: take a repository with safetensors, or its GGUF"),
        (
            &[".pte", ".bundle"],
            "these are ExecuTorch files: take the repository with safetensors, or its GGUF",
        ),
        (
            &[".tflite", ".task", ".litertlm"],
            "these are LiteRT files: take the repository with safetensors, or its GGUF",
        ),
        (
            &[".mlmodel", ".mlpackage", "coremldata.bin"],
            "these are Core ML files: take the repository with safetensors, or its GGUF",
        ),
    ];
    known.into_iter().find(|(endings, _)| has(endings)).map(|(_, what)| what)
}

/// What of a repository is meant. `memory_bytes` is the memory that is free, for the choice of a
/// quantization.
///
/// # Errors
/// If nothing fits; the message lists what there is.
pub(crate) fn select(
    entries: &[Entry],
    name: &HubName,
    memory_bytes: Option<u64>,
) -> Result<Selection, Error> {
    let ggufs = ggufs(entries);
    let missing =
        |what: String, existing: Vec<String>| Error::NoFile { repo: name.repo.to_string(), what, existing };
    let paths = || entries.iter().map(|entry| entry.path.clone()).collect();
    if let Some(file) = &name.file {
        let at = entries.iter().position(|entry| entry.path == *file);
        let at = at.ok_or_else(|| missing(format!("file {file}"), paths()))?;
        return Ok(match ggufs.iter().find(|gguf| gguf.files.contains(&at)) {
            Some(gguf) => with_gguf(entries, gguf),
            None => Selection { files: vec![at], open: Some(file.clone()), quant: None, is_model: false },
        });
    }
    if ggufs.is_empty() && name.quant.is_none() {
        let mut files: Vec<usize> =
            (0..entries.len()).filter(|&at| is_of_folder(&entries[at].path)).collect();
        if !files.iter().any(|&at| entries[at].path.ends_with(".safetensors")) {
            let found = other_form(entries).map_or_else(String::new, |found| format!("; {found}"));
            let what = format!("GGUF or safetensors files, which are what can be opened{found}");
            return Err(missing(what, paths()));
        }
        files.extend((0..entries.len()).filter(|&at| is_card(&entries[at].path)));
        return Ok(Selection { files, open: None, quant: None, is_model: true });
    }
    if let Some(wanted) = &name.quant {
        let existing = || match ggufs.is_empty() {
            true => vec![format!("no GGUF files: perhaps {}-GGUF:{wanted} does", name.repo)],
            false => ggufs.iter().map(shown).collect(),
        };
        let gguf =
            find(&ggufs, wanted).ok_or_else(|| missing(format!("quantization {wanted}"), existing()))?;
        return Ok(with_gguf(entries, gguf));
    }
    let candidates: Vec<Candidate<'_>> =
        ggufs.iter().map(|gguf| Candidate { quant: gguf.quant.as_deref(), bytes: gguf.bytes }).collect();
    let at = quant::choose(&candidates, memory_bytes).expect("there is at least one");
    Ok(with_gguf(entries, &ggufs[at]))
}

/// The model of a quantization, or the one whose name ends like this.
fn find<'a>(ggufs: &'a [Gguf], wanted: &str) -> Option<&'a Gguf> {
    let is_quant =
        |gguf: &&Gguf| gguf.quant.as_deref().is_some_and(|quant| quant.eq_ignore_ascii_case(wanted));
    let ends_so = |gguf: &&Gguf| {
        let (name, wanted) = (file_name(&gguf.stem).to_ascii_lowercase(), wanted.to_ascii_lowercase());
        name.strip_suffix(&wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
    };
    let plain = ggufs.iter().filter(is_quant).min_by_key(|gguf| gguf.stem.len());
    plain.or_else(|| ggufs.iter().filter(ends_so).min_by_key(|gguf| gguf.stem.len()))
}

fn shown(gguf: &Gguf) -> String {
    gguf.quant.clone().unwrap_or_else(|| file_name(&gguf.stem).to_owned())
}

fn with_gguf(entries: &[Entry], gguf: &Gguf) -> Selection {
    let mut files = gguf.files.clone();
    files.extend(mmproj(entries, gguf));
    files.extend((0..entries.len()).filter(|&at| is_card(&entries[at].path)));
    let open = Some(entries[gguf.files[0]].path.clone());
    Selection { open, files, quant: gguf.quant.clone(), is_model: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(files: &[(&str, u64)]) -> Vec<Entry> {
        files.iter().map(|(path, bytes)| Entry { path: (*path).to_owned(), bytes: *bytes }).collect()
    }

    /// The files selected and the one to open, or the error.
    fn selected(
        files: &[(&str, u64)],
        name: &str,
        memory: u64,
    ) -> Result<(Vec<String>, Option<String>), String> {
        let entries = entries(files);
        let name = HubName::parse(name).expect("a name");
        let selection = select(&entries, &name, Some(memory)).map_err(|error| error.to_string())?;
        let mut paths: Vec<String> = selection.files.iter().map(|&at| entries[at].path.clone()).collect();
        paths.sort();
        Ok((paths, selection.open))
    }

    const GGUF: [(&str, u64); 9] = [
        ("README.md", 1),
        ("LFM2-F16.gguf", 160),
        ("LFM2-Q8_0.gguf", 85),
        ("LFM2-Q4_K_M.gguf", 49),
        ("LFM2-QAD-Q4_0.gguf", 46),
        ("LFM2-Q4_0.gguf", 46),
        ("mmproj-LFM2-F16.gguf", 9),
        ("mmproj-LFM2-Q8_0.gguf", 5),
        ("LFM2.imatrix.gguf", 3),
    ];

    #[test]
    fn a_quantization_is_found_or_chosen_and_its_tower_comes_along() {
        for (name, memory, expected) in [
            ("a/b", 200, &["LFM2-Q8_0.gguf", "README.md", "mmproj-LFM2-Q8_0.gguf"][..]),
            ("a/b", 99, &["LFM2-Q4_K_M.gguf", "README.md", "mmproj-LFM2-Q8_0.gguf"]),
            ("a/b:f16", 10, &["LFM2-F16.gguf", "README.md", "mmproj-LFM2-F16.gguf"]),
            ("a/b:Q4_0", 10, &["LFM2-Q4_0.gguf", "README.md", "mmproj-LFM2-Q8_0.gguf"]),
            ("a/b:qad-q4_0", 10, &["LFM2-QAD-Q4_0.gguf", "README.md", "mmproj-LFM2-Q8_0.gguf"]),
            ("a/b/LFM2-Q4_0.gguf", 10, &["LFM2-Q4_0.gguf", "README.md", "mmproj-LFM2-Q8_0.gguf"]),
            ("a/b/README.md", 10, &["README.md"]),
        ] {
            let (paths, open) =
                selected(&GGUF, name, memory).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(paths, expected, "{name}");
            assert_eq!(open.as_deref(), Some(expected[0]), "{name}");
        }
        let message = selected(&GGUF, "a/b:Q5_K_M", 10).expect_err("there is none");
        assert!(message.contains("Q5_K_M; it has F16, Q8_0, Q4_K_M, Q4_0"), "{message}");
        let message = selected(&GGUF, "a/b/none.gguf", 10).expect_err("there is none");
        assert!(message.contains("none.gguf") && message.contains("LFM2-F16.gguf"), "{message}");
    }

    #[test]
    fn a_tower_that_is_named_like_the_model_comes_before_those_of_others() {
        let files = [
            ("LFM2-VL-1.6B-Q4_0.gguf", 9),
            ("LFM2-VL-450M-Q4_0.gguf", 5),
            ("mmproj-LFM2-VL-1.6B-Q8_0.gguf", 4),
            ("mmproj-LFM2-VL-450M-Q8_0.gguf", 2),
        ];
        for (model, tower) in [
            ("LFM2-VL-1.6B-Q4_0.gguf", "mmproj-LFM2-VL-1.6B-Q8_0.gguf"),
            ("LFM2-VL-450M-Q4_0.gguf", "mmproj-LFM2-VL-450M-Q8_0.gguf"),
        ] {
            let (paths, _) = selected(&files, &format!("a/b/{model}"), 10).expect("found");
            assert_eq!(paths, [model, tower]);
        }
    }

    #[test]
    fn every_part_of_a_split_file_is_fetched_and_half_of_one_is_none() {
        let files = [
            ("Q8_0/m-Q8_0-00002-of-00002.gguf", 5),
            ("Q8_0/m-Q8_0-00001-of-00002.gguf", 5),
            ("m-Q4_0-00001-of-00003.gguf", 5),
            ("m-Q4_0-00003-of-00003.gguf", 5),
        ];
        let (paths, open) = selected(&files, "a/b", 100).expect("selects");
        assert_eq!(paths, ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"]);
        assert_eq!(open.as_deref(), Some("Q8_0/m-Q8_0-00001-of-00002.gguf"));
        assert!(selected(&files, "a/b:Q4_0", 100).is_err());
        let part = selected(&files, "a/b/Q8_0/m-Q8_0-00002-of-00002.gguf", 100).expect("selects");
        assert_eq!(part.0.len(), 2);
    }

    #[test]
    fn a_folder_is_fetched_without_other_forms_of_its_weights() {
        let files = [
            ("config.json", 1),
            ("generation_config.json", 1),
            ("chat_template.jinja", 1),
            ("tokenizer.json", 1),
            ("model-00001-of-00002.safetensors", 9),
            ("model-00002-of-00002.safetensors", 9),
            ("model.safetensors.index.json", 1),
            ("pytorch_model.bin", 9),
            ("onnx/model.onnx", 9),
            ("onnx/config.json", 1),
            (".gitattributes", 1),
            ("README.md", 1),
            ("LICENSE", 1),
        ];
        let (paths, open) = selected(&files, "a/b", 0).expect("selects");
        let left_out = ["pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", ".gitattributes"];
        let mut expected: Vec<&str> =
            files.iter().map(|(path, _)| *path).filter(|path| !left_out.contains(path)).collect();
        expected.sort_unstable();
        assert_eq!(paths, expected);
        assert_eq!(open, None);
        let message = selected(&files, "a/b:Q4_0", 0).expect_err("no GGUF");
        assert!(message.contains("a/b-GGUF:Q4_0"), "{message}");
        let message = selected(&files[7..], "a/b", 0).expect_err("nothing to open");
        assert!(message.contains("safetensors"), "{message}");
        for (path, part) in [
            ("onnx/model_q4.onnx", "ONNX"),
            ("pytorch_model.bin", "PyTorch"),
            ("weights.npz", "MLX"),
            ("lfm2.pte", "ExecuTorch"),
            ("README.md", "which are what can be opened; it has README.md"),
        ] {
            let message =
                selected(&[("config.json", 1), (path, 9)][1..], "a/b", 0).expect_err("nothing to open");
            assert!(message.contains(part), "{path}: {message}");
        }
    }
}
