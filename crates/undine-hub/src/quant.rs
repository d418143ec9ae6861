//! Quantizations: read from the names of GGUF files, and chosen when none is named.

/// A quantization and the bits a weight takes in whole files of it, embeddings and norms included: means over
/// published files of this family. Best first.
const KNOWN: [(&str, f64); 29] = [
    ("F32", 32.0),
    ("BF16", 16.0),
    ("F16", 16.0),
    ("Q8_0", 8.51),
    ("Q6_K_L", 6.8),
    ("Q6_K", 6.58),
    ("Q5_K_L", 5.9),
    ("Q5_K_M", 5.69),
    ("Q5_1", 6.0),
    ("Q5_K_S", 5.55),
    ("Q5_0", 5.55),
    ("Q4_K_L", 5.0),
    ("Q4_K_M", 4.86),
    ("Q4_1", 5.05),
    ("Q4_K_S", 4.62),
    ("IQ4_NL", 4.6),
    ("Q4_0", 4.56),
    ("MXFP4", 4.5),
    ("IQ4_XS", 4.35),
    ("Q3_K_L", 4.2),
    ("Q3_K_M", 3.9),
    ("IQ3_M", 3.7),
    ("Q3_K_S", 3.5),
    ("IQ3_XXS", 3.2),
    ("Q2_K", 3.0),
    ("IQ2_M", 2.8),
    ("IQ2_XXS", 2.2),
    ("TQ1_0", 1.8),
    ("IQ1_S", 1.7),
];
/// The types that are chosen from when none is named: about 4 to 8 bits. Below, answers get worse; above,
/// they get no better that anybody would notice, and slower, because a step reads every weight.
const CHOSEN: [&str; 11] =
    ["Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "IQ4_NL", "Q4_0"];
/// Of the memory that is free, the part that weights may take: the rest is for keys and values and other
/// programs.
const SHARE_MAX: f64 = 0.5;

/// Whether it is the name of a quantization, in any case.
pub fn is_known(text: &str) -> bool {
    bits_per_weight(text).is_some()
}

/// Bits per weight, of a whole file.
pub(crate) fn bits_per_weight(quant: &str) -> Option<f64> {
    KNOWN.iter().find(|(name, _)| name.eq_ignore_ascii_case(quant)).map(|(_, bits)| *bits)
}

/// The quantization in a GGUF file's name without `.gguf` and part numbers: the last word that is one.
pub(crate) fn of_stem(stem: &str) -> Option<String> {
    let mut words = stem.rsplit(['-', '.']);
    words.find(|word| is_known(word)).map(str::to_ascii_uppercase)
}

/// Something to choose from.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its quantization, if its name says one.
    pub quant: Option<&'a str>,
    /// Its size.
    pub bytes: u64,
}

/// Bytes that are read fast for every token. In a larger file a type of half the bits answers at almost twice
/// the speed, which people notice more than what it loses.
const FAST_BYTES: u64 = 2 << 30;

/// How well the choice suits the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// Weights take at most half of the free memory.
    Well,
    /// They fit, and little else does.
    Barely,
    /// They are larger than the free memory: every step reads from the disk.
    TooLarge,
}

/// How weights of this size fit into free memory; `None` is memory nobody knows the size of.
pub fn fit(bytes: u64, memory_bytes: Option<u64>) -> Fit {
    match memory_bytes {
        None => Fit::Well,
        Some(memory) if bytes as f64 <= memory as f64 * SHARE_MAX => Fit::Well,
        Some(memory) if bytes <= memory => Fit::Barely,
        Some(_) => Fit::TooLarge,
    }
}

/// The index of the best candidate for a machine with so much free memory, `None` if there is nothing to
/// choose from.
///
/// 1. Of the types with about 4 to 8 bits, those files that take at most half of the memory. Of these the
///    largest of at most [`FAST_BYTES`]; if all are larger, `Q4_K_M`, or else the smallest.
/// 2. If none does, the smallest of these that fits at all.
/// 3. If none does, the largest file of fewer bits that fits; and if nothing fits, the smallest there is.
///
/// Files of 16 bits and more are chosen only if there are no others. When the memory is not known, `Q4_K_M`
/// is.
pub fn choose(candidates: &[Candidate<'_>], memory_bytes: Option<u64>) -> Option<usize> {
    let bits = |at: &usize| candidates[*at].quant.and_then(bits_per_weight).unwrap_or(16.0);
    let size = |at: &usize| candidates[*at].bytes;
    let is_chosen = |at: &usize| candidates[*at].quant.is_some_and(|quant| CHOSEN.contains(&quant));
    let all = || 0..candidates.len();
    let Some(memory) = memory_bytes else {
        let usual = all().find(|&at| candidates[at].quant == Some("Q4_K_M"));
        return usual.or_else(|| all().filter(is_chosen).min_by_key(size)).or_else(|| all().min_by_key(size));
    };
    let fits = |at: &usize| fit(size(at), Some(memory));
    let well = || all().filter(|at| is_chosen(at) && fits(at) == Fit::Well);
    well()
        .filter(|at| size(at) <= FAST_BYTES)
        .max_by_key(size)
        .or_else(|| well().find(|&at| candidates[at].quant == Some("Q4_K_M")))
        .or_else(|| well().min_by_key(size))
        .or_else(|| all().filter(|at| is_chosen(at) && fits(at) == Fit::Barely).min_by_key(size))
        .or_else(|| all().filter(|at| bits(at) < 16.0 && fits(at) != Fit::TooLarge).max_by_key(size))
        .or_else(|| all().min_by_key(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantizations_are_read_from_names() {
        for (stem, expected) in [
            ("LFM2-1.2B-Q4_K_M", Some("Q4_K_M")),
            ("lfm2-350m-q8_0", Some("Q8_0")),
            ("LFM2.5-2.6B-QAD-Q4_0", Some("Q4_0")),
            ("model.IQ4_XS", Some("IQ4_XS")),
            ("mmproj-LFM2-VL-450M-F16", Some("F16")),
            ("Q8_0-not-this-BF16", Some("BF16")),
            ("LFM2-1.2B", None),
            ("", None),
        ] {
            assert_eq!(of_stem(stem).as_deref(), expected, "{stem}");
        }
    }

    #[test]
    fn the_largest_of_4_to_8_bits_that_leaves_room_is_chosen() {
        const G: u64 = 1 << 30;
        let names = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K"];
        let sizes = [16, 9, 7, 6, 5, 4, 3];
        let all: Vec<Candidate<'_>> = names
            .iter()
            .zip(sizes)
            .map(|(quant, size)| Candidate { quant: Some(quant), bytes: size * G })
            .collect();
        for (memory, expected) in [
            (Some(64 * G), "Q4_K_M"),
            (Some(18 * G), "Q4_K_M"),
            (Some(10 * G), "Q4_K_M"),
            (Some(8 * G), "Q4_0"),
            (Some(5 * G), "Q4_0"),
            (Some(3 * G), "Q2_K"),
            (Some(G), "Q2_K"),
            (None, "Q4_K_M"),
        ] {
            let at = choose(&all, memory).expect("something");
            assert_eq!(names[at], expected, "{memory:?}");
        }
        // Small files are fast in any type.
        let small: Vec<Candidate<'_>> =
            all.iter().map(|candidate| Candidate { bytes: candidate.bytes / 8, ..*candidate }).collect();
        for (memory, expected) in [(64 * G, "Q8_0"), (2 * G, "Q6_K"), (G, "Q4_0")] {
            assert_eq!(names[choose(&small, Some(memory)).expect("something")], expected, "{memory}");
        }
        let only =
            [Candidate { quant: Some("BF16"), bytes: 16 * G }, Candidate { quant: None, bytes: 20 * G }];
        assert_eq!(choose(&only, Some(64 * G)), Some(0));
        assert_eq!(choose(&only, None), Some(0));
        assert_eq!(choose(&[], Some(G)), None);
        assert_eq!(
            [fit(5, Some(10)), fit(6, Some(10)), fit(11, Some(10))],
            [Fit::Well, Fit::Barely, Fit::TooLarge]
        );
    }
}
