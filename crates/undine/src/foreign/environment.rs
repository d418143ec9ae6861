//! Variables of other programs: none is obeyed, and none is passed over in silence.

/// The commands that would mind, the variable, and what does it here.
const KNOWN: &[(&[&str], &str, &str)] = &[
    (&["serve"], "OLLAMA_HOST", "--host and --port, or UNDINE_HOST and UNDINE_PORT"),
    (&["serve"], "OLLAMA_ORIGINS", "--allowed-origins"),
    (&["serve"], "OLLAMA_NUM_PARALLEL", "--max-num-seqs"),
    (&["serve"], "OLLAMA_MAX_QUEUE", "--max-queued-requests"),
    (&["run", "serve"], "OLLAMA_CONTEXT_LENGTH", "--max-model-len"),
    (&["run", "serve"], "OLLAMA_KV_CACHE_TYPE", "--kv-cache-dtype"),
    (&["run", "pull", "list"], "OLLAMA_MODELS", "HF_HUB_CACHE, for models of the hub"),
    (&["serve"], "LLAMA_API_KEY", "--api-key-file, or UNDINE_API_KEY"),
    (&["serve"], "LLAMA_ARG_HOST", "--host, or UNDINE_HOST"),
    (&["serve"], "LLAMA_ARG_PORT", "--port, or UNDINE_PORT"),
    (&["serve"], "LLAMA_ARG_N_PARALLEL", "--max-num-seqs"),
    (&["serve"], "LLAMA_ARG_ALIAS", "--served-model-name"),
    (&["run", "serve", "bench"], "LLAMA_ARG_MODEL", "the first argument, or UNDINE_MODEL"),
    (&["run", "serve", "bench"], "LLAMA_ARG_HF_REPO", "the first argument, or UNDINE_MODEL"),
    (&["run", "serve"], "LLAMA_ARG_CTX_SIZE", "-c, which is --max-model-len"),
    (&["run"], "LLAMA_ARG_N_PREDICT", "-n"),
    (&["run", "serve", "bench"], "LLAMA_ARG_THREADS", "-t, or UNDINE_THREADS"),
    (&["run", "serve", "bench", "pull"], "LLAMA_CACHE", "HF_HUB_CACHE"),
];
/// What other variables of llama.cpp begin with.
const LLAMA: &str = "LLAMA_ARG_";
/// The commands that would mind any of these.
const LLAMA_COMMANDS: [&str; 3] = ["run", "serve", "bench"];

/// A sentence for each variable that is set and that a command of another program would obey.
pub fn unheard(command: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let mut notes: Vec<String> = names.filter_map(|name| unheard_one(command, &name)).collect();
    notes.sort();
    notes
}

fn unheard_one(command: &str, name: &str) -> Option<String> {
    match KNOWN.iter().find(|(_, known, _)| *known == name) {
        Some((commands, _, instead)) => commands
            .contains(&command)
            .then(|| format!("{name} is set, and not obeyed; what does it here: {instead}")),
        None if name.starts_with(LLAMA) && LLAMA_COMMANDS.contains(&command) => {
            Some(format!("{name} is set, and not obeyed; give the flag instead"))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_other_programs_are_told() {
        for (command, name, expected) in [
            ("serve", "OLLAMA_HOST", Some("--host and --port")),
            ("run", "OLLAMA_HOST", None),
            ("serve", "LLAMA_API_KEY", Some("UNDINE_API_KEY")),
            ("run", "LLAMA_ARG_CTX_SIZE", Some("-c")),
            ("run", "LLAMA_ARG_FLASH_ATTN", Some("give the flag")),
            ("inspect", "LLAMA_ARG_CTX_SIZE", None),
            ("serve", "UNDINE_HOST", None),
            ("serve", "PATH", None),
        ] {
            let notes = unheard(command, [name.to_owned()].into_iter());
            match expected {
                Some(part) => assert!(notes.len() == 1 && notes[0].contains(part), "{name}: {notes:?}"),
                None => assert!(notes.is_empty(), "{name}: {notes:?}"),
            }
        }
    }
}
