//! Helper processes, as the program has them: what takes too much, or brings its process down, is tried out
//! there first and is no finding. The helper is the target itself, started again; it runs without being
//! watched by libFuzzer.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use undine_text::{Budget, Helpers, Program, TextError, Urgency, in_background};

/// The first argument of a helper.
const ARGUMENT: &str = "__helper";
/// What a trial may take. Less memory than the program grants, so that what passes is far below the limit of
/// the heap here.
pub const BUDGET: Budget = Budget { cpu_seconds: 1, memory_mib: 128, wall: Duration::from_secs(30) };
/// A job that takes longer comes after everything else.
const SLOW_AFTER: Duration = Duration::from_millis(50);
/// Twice that of a helper, so that what was enough there is enough here.
const STACK_BYTES: usize = undine_text::grammar::STACK_BYTES;

/// For chat templates.
pub static TEMPLATES: LazyLock<Arc<Helpers>> =
    LazyLock::new(|| Arc::new(Helpers::new(program(), Urgency::Normal { slow_after: SLOW_AFTER }, BUDGET)));

/// What is started as a helper.
pub fn program() -> Program {
    let path = std::env::current_exe().expect("the system says where the program is");
    Program { path, arguments: vec![ARGUMENT.into()] }
}

/// Does a helper's work if this process is one, and then ends it.
pub(crate) fn serve_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        let _ = undine_text::helper::serve();
        std::process::exit(0);
    }
}

/// Whether a trial ended as a helper, not as an error of the input.
pub fn is_contained(error: &TextError) -> bool {
    matches!(error, TextError::TemplateExhausts(_) | TextError::GrammarExhausts(_) | TextError::Helper(_))
}

/// Does in this process, where libFuzzer sees it, what was tried out in a helper.
pub fn here<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = in_background("target", STACK_BYTES, work).expect("there are threads");
    done.expect("what passed in a helper does not panic here")
}
