//! Templates and grammars in helper processes, with limits set low and work a little above them: this test
//! program is its own helper.
#![cfg(unix)]

use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use undine_core::{Constraint, TokenId};
use undine_text::grammar::{CompiledRules, Parallel};
use undine_text::tools::{Strictness, ToolSet};
use undine_text::{
    AnswerFormat, AnswerRules, Budget, Cancel, ChatInput, ChatTemplate, GrammarCompiler, Helpers, MaskWorker,
    Program, ReasoningRules, TextError, Tokenizer, ToolChoice, ToolRules, Urgency,
};

const HELPER: &str = "helpers::this_process_as_a_helper";
const MARK: &str = "__helper";

const BUDGET: Budget = Budget { cpu_seconds: 10, memory_mib: 512, wall: Duration::from_secs(60) };

/// Serves if the test program was started as a helper. [`program`] starts it with this test's name.
#[test]
fn this_process_as_a_helper() {
    if std::env::args().any(|argument| argument == MARK) {
        exit(if undine_text::helper::serve() == ExitCode::SUCCESS { 0 } else { 1 });
    }
}

fn program() -> Program {
    let arguments = ["--exact", HELPER, MARK, "--nocapture"].map(Into::into).to_vec();
    Program { path: std::env::current_exe().unwrap(), arguments }
}

fn templates(budget: Budget) -> Arc<Helpers> {
    Arc::new(Helpers::new(program(), Urgency::Background, budget))
}

fn isolated(source: &str, helpers: &Arc<Helpers>) -> Result<ChatTemplate, TextError> {
    ChatTemplate::isolated(source, "<s>", "</s>", helpers, &Cancel::default())
}

fn render(template: &ChatTemplate, messages: &[Json], kwargs: Json) -> Result<String, TextError> {
    let kwargs: &Map<String, Json> = kwargs.as_object().unwrap();
    template.render(&ChatInput { messages, tools: None, add_generation_prompt: true, kwargs })
}

#[test]
fn a_template_says_the_same_in_a_helper() {
    let helpers = templates(BUDGET);
    let source =
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content | tojson }}{% endfor %}{{ x }}";
    let here = ChatTemplate::new(source, "<s>", "</s>").unwrap();
    let there = isolated(source, &helpers).unwrap();
    assert_eq!(here.traits(), there.traits());
    let messages = [
        json!({"role": "user", "content": "héllo \u{1b} \"x\""}),
        json!({"role": "tool", "content": [1, 2.5]}),
    ];
    let [here, there] =
        [here, there].map(|template| render(&template, &messages, json!({"x": 1e15})).unwrap());
    assert_eq!(here, there);
    for (source, expected) in [
        ("{% if %}", "does not parse"),
        ("{{ raise_exception('not so') }}", "refuses these messages: not so"),
        ("{{ messages.nothing.at_all }}", "failed"),
    ] {
        let error = isolated(source, &helpers).and_then(|template| render(&template, &messages, json!({})));
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("the chat template") && error.contains(expected), "{source}: {error}");
    }
}

#[test]
fn a_template_that_takes_too_much_is_stopped_and_others_go_on() {
    let helpers = templates(Budget { cpu_seconds: 1, memory_mib: 24, ..BUDGET });
    let grows = "{% set ns = namespace(text='0123456789abcdef') %}\
        {% for i in range(n) %}{% set ns.text = ns.text ~ ns.text %}{% endfor %}{{ ns.text | length }}";
    let template = isolated(&format!("{{% if n is defined %}}{grows}{{% endif %}}"), &helpers).unwrap();
    assert_eq!(render(&template, &[], json!({"n": 10})).unwrap(), (16 << 10).to_string());
    // 32 MiB, of which 24 are granted.
    let error = render(&template, &[], json!({"n": 21})).unwrap_err();
    assert!(matches!(error, TextError::TemplateExhausts(_)), "{error}");
    assert_eq!(
        error.to_string(),
        "the chat template was stopped: it takes more than 24 MiB of memory; use another template"
    );
    assert_eq!(render(&template, &[], json!({"n": 1})).unwrap(), "32");
    let cancel = Cancel::default();
    cancel.cancel();
    let input = ChatInput { messages: &[], tools: None, add_generation_prompt: true, kwargs: &Map::new() };
    // Work that is done before anybody looks is no harm.
    drop(template.render_until(&input, &cancel));
    assert_eq!(render(&template, &[], json!({"n": 2})).unwrap(), "64");
}

fn schema(properties: usize) -> AnswerRules {
    let property =
        |i: usize| (format!("p{i}"), json!({"type": "string", "pattern": format!("[a-z]{{{}}}", i + 1)}));
    let properties: Map<String, Json> = (0..properties).map(property).collect();
    let format =
        AnswerFormat::JsonSchema(json!({"type": "object", "properties": properties}), Strictness::Strict);
    AnswerRules { format, tools: None, reasoning: ReasoningRules::None }
}

/// The tokens that may come next, if any are ruled out.
fn allowed(answer: &mut dyn Constraint, tokenizer: &Tokenizer) -> Vec<TokenId> {
    let Some(mask) = answer.allowed() else { return Vec::new() };
    let ids = 0..tokenizer.vocab_size() as TokenId;
    ids.filter(|&id| crate::common::walk::is_allowed(mask.wait(), id)).collect()
}

fn prepare(compiler: &GrammarCompiler, rules: &AnswerRules) -> Result<CompiledRules, TextError> {
    compiler.prepare(rules, &Cancel::default())
}

#[test]
fn rules_that_were_tried_out_are_the_same_rules() {
    let tokenizer = crate::common::with_tools();
    let here = GrammarCompiler::new(&tokenizer).unwrap();
    let there = GrammarCompiler::with(&tokenizer, masks(&tokenizer), Some((program(), BUDGET))).unwrap();
    let parameters =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": parameters}});
    let set = Arc::new(ToolSet::new(&[tool]).unwrap());
    let tools = ToolRules { set, choice: ToolChoice::Required, parallel: Parallel::One };
    let of = |format, tools| AnswerRules { format, tools, reasoning: ReasoningRules::None };
    let rules = [
        of(AnswerFormat::Choice(vec!["yes".to_owned(), "no".to_owned()]), None),
        of(AnswerFormat::Regex("[ab]{2}c?".to_owned()), None),
        of(AnswerFormat::Grammar("root ::= \"x\" | \"y\"".to_owned()), None),
        of(AnswerFormat::JsonObject, None),
        of(AnswerFormat::Free, Some(tools)),
        schema(5),
    ];
    for rules in &rules {
        assert!(!there.is_at_hand(rules), "{rules:?}");
        let [mut here, mut there] =
            [&here, &there].map(|compiler| prepare(compiler, rules).unwrap().constraint());
        for _ in 0..4 {
            let [here_ids, there_ids] =
                [&mut here, &mut there].map(|answer| allowed(answer.as_mut(), &tokenizer));
            assert_eq!(here_ids, there_ids, "{rules:?}");
            let Some(&token) = here_ids.first() else { break };
            here.accept(token).unwrap();
            there.accept(token).unwrap();
        }
    }
    assert!(rules.iter().all(|rules| there.is_at_hand(rules)));
    let wrong = of(AnswerFormat::Regex("[".to_owned()), None);
    let [here, there] = [&here, &there].map(|compiler| prepare(compiler, &wrong).err().unwrap().to_string());
    assert_eq!(here, there);
}

#[test]
fn rules_that_take_too_much_are_refused_and_others_go_on() {
    let tokenizer = crate::common::with_tools();
    let compiler = GrammarCompiler::with(
        &tokenizer,
        masks(&tokenizer),
        Some((program(), Budget { memory_mib: 2, ..BUDGET })),
    )
    .unwrap();
    let error = prepare(&compiler, &schema(400)).err().unwrap();
    assert!(matches!(error, TextError::GrammarExhausts(_)), "{error}");
    assert!(error.to_string().contains("more than 2 MiB of memory"), "{error}");
    assert!(prepare(&compiler, &schema(1)).is_ok());
}

fn masks(tokenizer: &Tokenizer) -> Arc<MaskWorker> {
    Arc::new(MaskWorker::start(tokenizer).unwrap())
}

#[test]
fn what_is_too_deep_never_gets_there() {
    let tokenizer = crate::common::with_tools();
    // No helper can be started, so an error that names the place is of the measure.
    let program = Program { path: "/nonexistent/program".into(), arguments: Vec::new() };
    let compiler = GrammarCompiler::with(&tokenizer, masks(&tokenizer), Some((program, BUDGET))).unwrap();
    let nested = (0..100).fold(json!({}), |inner, _| json!({"items": inner}));
    let groups = format!("{}a{}", "(".repeat(60), ")".repeat(60));
    let tool =
        json!({"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": nested}}}});
    let set = Arc::new(ToolSet::new(&[tool]).unwrap());
    let tools = Some(ToolRules { set, choice: ToolChoice::Auto, parallel: Parallel::Allowed });
    for (format, tools, place) in [
        (AnswerFormat::JsonSchema(nested.clone(), Strictness::Strict), None, "the schema.items.items"),
        (AnswerFormat::Free, tools, "the parameters of f.properties.x.items"),
        (AnswerFormat::Regex(groups.clone()), None, "the expression: "),
        (AnswerFormat::Grammar(format!("start: {groups}")), None, "line 1: "),
        (AnswerFormat::Grammar(format!("root ::= {groups}")), None, "line 1: "),
    ] {
        let rules = AnswerRules { format, tools, reasoning: ReasoningRules::None };
        let error = prepare(&compiler, &rules).err().unwrap();
        assert!(matches!(error, TextError::GrammarLimit { .. }), "{error}");
        assert!(error.to_string().contains(place), "{error}");
    }
    let error = prepare(&compiler, &schema(1)).err().unwrap();
    assert!(matches!(error, TextError::Helper(_)), "{error}");
}
