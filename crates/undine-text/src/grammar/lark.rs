//! The rules of an answer as llguidance grammars (its dialect of Lark, with JSON schemas within).

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{GrammarBuilder, JsonCompileOptions, regex_to_lark};
use serde_json::{Map, Value as Json, json};

use super::library::{Grammars, Made, limits};
use super::schema::{Fitted, LeftOut, anything, fit, outline, relax};
use super::vocabulary::CallMarkers;
use super::{
    AnswerFormat, CHOICE_BYTES_MAX, CHOICES_MAX, GRAMMAR_BYTES_MAX, PROPERTIES_MAX, PROPERTIES_SUM_MAX,
    REGEX_BYTES_MAX, SCHEMA_BYTES_MAX, ToolChoice, ToolRules, call, gbnf, numbers,
};
use crate::tools::{Strictness, TOOL_CALL_END, TOOL_CALL_START, Tool};
use crate::{TextError, exact};

/// White space between the parts of JSON: one space, or a line break and an indent. Without a limit a weak
/// model can spend its whole answer on it.
const JSON_SPACE: &str = r"\x20|\n\x20{0,40}|\n\t{0,10}";

/// The name of the grammar of the answer without calls.
const ANSWER: &str = "answer";

/// How much of a schema is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Detail {
    #[default]
    All,
    Outline,
}

/// Whose schemas are too much for a lexer, and keep their outlines only.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outlined {
    /// That of the answer.
    pub answer: Detail,
    /// By name.
    pub tools: Vec<String>,
}

/// The grammars of an answer.
pub fn grammars(
    format: &AnswerFormat,
    tools: Option<&ToolRules>,
    markers: CallMarkers,
    outlined: &Outlined,
) -> Result<Made, TextError> {
    let mut left_out = Vec::new();
    let answer = answer(format, outlined, &mut left_out)?;
    let grammars = match tools.filter(|tools| !tools.set.is_empty()) {
        Some(tools) => with_calls(answer, tools, markers, outlined, &mut left_out)?,
        None => match (tools, answer) {
            (Some(ToolRules { choice: ToolChoice::Required | ToolChoice::Named(_), .. }), _) => {
                return Err(TextError::Grammar(
                    "a tool call is required, but no tools are declared".to_owned(),
                ));
            }
            (_, None) => Grammars::Free,
            (_, Some(answer)) => Grammars::Whole(TopLevelGrammar::from_grammar(answer)),
        },
    };
    Ok(Made { grammars, left_out })
}

fn with_calls(
    answer: Option<GrammarWithLexer>,
    tools: &ToolRules,
    markers: CallMarkers,
    outlined: &Outlined,
    left_out: &mut Vec<String>,
) -> Result<Grammars, TextError> {
    let CallMarkers { start, end } = markers;
    let [start_marker, end_marker] =
        [(TOOL_CALL_START, start), (TOOL_CALL_END, end)].map(|(marker, is_token)| {
            // A marker in angle brackets names a control token; a vocabulary without it spells it.
            if is_token { marker.to_owned() } else { string(marker) }
        });
    let callable = callable(tools)?;
    let (calls, of_tools) = call::lark(&callable, tools.parallel, &outlined.tools)?;
    for (tool, of_tool) in callable.iter().zip(of_tools) {
        let whose = format!("the tool {:?}", tool.name());
        check_strictness(tool.strictness(), &whose, &of_tool)?;
        left_out.extend(of_tool.0.iter().map(|place| format!("{}: {place}", tool.name())));
    }
    let grammar = |start: &str| GrammarWithLexer::from_lark(format!("start: {start}\n{calls}"));
    Ok(match (&tools.choice, answer) {
        (ToolChoice::Required | ToolChoice::Named(_), _) => {
            let start = format!("{start_marker} calls {end_marker}");
            Grammars::Whole(TopLevelGrammar::from_grammar(grammar(&start)))
        }
        (ToolChoice::Auto, Some(answer)) => {
            let start = format!("{start_marker} calls {end_marker} | @{ANSWER}");
            let answer = GrammarWithLexer { name: Some(ANSWER.to_owned()), ..answer };
            Grammars::Whole(TopLevelGrammar { grammars: vec![grammar(&start), answer], max_tokens: None })
        }
        (ToolChoice::Auto, None) => {
            Grammars::Calls(TopLevelGrammar::from_grammar(grammar(&format!("calls {end_marker}"))))
        }
    })
}

/// Whoever asked for all of a schema is told what of it cannot be had.
fn check_strictness(strictness: Strictness, whose: &str, left_out: &LeftOut) -> Result<(), TextError> {
    match strictness {
        Strictness::Strict if !left_out.0.is_empty() => Err(TextError::Grammar(format!(
            "{whose} is strict, and of its schema this cannot be enforced: {}; leave it out, or do without \"strict\": true",
            left_out.0.join(", ")
        ))),
        _ => Ok(()),
    }
}

fn callable(tools: &ToolRules) -> Result<Vec<&Tool>, TextError> {
    match &tools.choice {
        ToolChoice::Auto | ToolChoice::Required => Ok(tools.set.tools().iter().collect()),
        ToolChoice::Named(name) => tools.set.get(name).map(|tool| vec![tool]).ok_or_else(|| {
            TextError::Grammar(format!("tool_choice names {name:?}, which is not among the tools"))
        }),
    }
}

fn answer(
    format: &AnswerFormat,
    outlined: &Outlined,
    left_out: &mut Vec<String>,
) -> Result<Option<GrammarWithLexer>, TextError> {
    Ok(Some(match format {
        AnswerFormat::Free => return Ok(None),
        AnswerFormat::JsonObject => GrammarWithLexer::from_json_schema(spaced(&json!({"type": "object"}))?),
        AnswerFormat::JsonSchema(schema, strictness) => {
            check_size("the JSON schema", exact::to_string(schema).len(), SCHEMA_BYTES_MAX)?;
            let sum = properties(schema)?;
            if sum > PROPERTIES_SUM_MAX {
                let found = format!(
                    "the JSON schema declares {sum} properties; expected at most {PROPERTIES_SUM_MAX}"
                );
                return Err(TextError::Grammar(found));
            }
            let fitted = fitted(schema, outlined)?;
            let literal = numbers::check(&fitted.schema).is_err() && fitted.left_out.0.is_empty();
            if let Some(literal) = call::json_lark(&fitted).filter(|_| literal) {
                // The library would make doubles of its constants.
                return Ok(Some(GrammarWithLexer::from_lark(literal)));
            }
            let (schema, of_schema) = as_the_library_takes_it(fitted);
            check_strictness(*strictness, "the answer's form", &of_schema)?;
            if schema == anything() && !of_schema.0.is_empty() {
                return Err(TextError::Grammar(format!(
                    "nothing of the JSON schema can be enforced; what it says is not understood or beyond a grammar: {}",
                    of_schema.0.join(", ")
                )));
            }
            left_out.extend(of_schema.0);
            GrammarWithLexer::from_json_schema(spaced(&schema)?)
        }
        AnswerFormat::Regex(regex) => {
            check_size("the regular expression", regex.len(), REGEX_BYTES_MAX)?;
            let whole = regex.strip_prefix('^').unwrap_or(regex);
            let whole = whole.strip_suffix('$').filter(|rest| !rest.ends_with('\\')).unwrap_or(whole);
            GrammarWithLexer::from_lark(format!("start: /{}/", regex_to_lark(&format!("({whole})"), "")))
        }
        AnswerFormat::Choice(choices) => {
            if choices.is_empty() || choices.len() > CHOICES_MAX {
                let found = format!("{} choices; expected 1 to {CHOICES_MAX}", choices.len());
                return Err(TextError::Grammar(found));
            }
            check_size("the choices", choices.iter().map(String::len).sum(), CHOICE_BYTES_MAX)?;
            let choices: Vec<String> = choices.iter().map(|choice| string(choice)).collect();
            GrammarWithLexer::from_lark(format!("start: {}", choices.join(" | ")))
        }
        AnswerFormat::Grammar(grammar) => {
            check_size("the grammar", grammar.len(), GRAMMAR_BYTES_MAX)?;
            GrammarWithLexer::from_lark(gbnf::to_lark(grammar)?.unwrap_or_else(|| grammar.clone()))
        }
    }))
}

fn check_size(what: &str, bytes: usize, limit: usize) -> Result<(), TextError> {
    if bytes <= limit {
        return Ok(());
    }
    Err(TextError::Grammar(format!("{what} has {bytes} bytes; expected at most {limit}")))
}

/// How many properties a schema declares, if no object has too many.
fn properties(schema: &Json) -> Result<usize, TextError> {
    let parts: Vec<&Json> = match schema {
        Json::Object(object) => object.values().collect(),
        Json::Array(list) => list.iter().collect(),
        _ => return Ok(0),
    };
    let own = schema["properties"].as_object().map_or(0, Map::len);
    if own > PROPERTIES_MAX {
        return Err(TextError::Grammar(format!(
            "an object of the JSON schema declares {own} properties; expected at most {PROPERTIES_MAX}"
        )));
    }
    parts.into_iter().try_fold(own, |sum, part| Ok(sum + properties(part)?))
}

/// As the library takes it, and what of it is left out.
fn as_the_library_takes_it(mut fitted: Fitted) -> (Json, LeftOut) {
    let schema = relax(&fitted.schema, &fitted.definitions, "", &mut fitted.left_out, compiles);
    (schema, fitted.left_out)
}

fn fitted(schema: &Json, outlined: &Outlined) -> Result<Fitted, TextError> {
    let mut fitted = fit(schema);
    if fitted.schema == false {
        let message = "the JSON schema is false, which allows nothing; expected an object, or true";
        return Err(TextError::Grammar(message.to_owned()));
    }
    if outlined.answer == Detail::Outline {
        fitted = outline(&fitted);
    }
    Ok(fitted)
}

/// A schema with the white space that answers may have.
pub fn spaced(schema: &Json) -> Result<Json, TextError> {
    let mut object = match exact::forgotten(schema) {
        Json::Object(object) => object,
        Json::Bool(true) => Map::new(),
        found => {
            let found = format!("the JSON schema is {found}; expected an object, or true");
            return Err(TextError::Grammar(found));
        }
    };
    let options = json!({"whitespace_flexible": false, "whitespace_pattern": JSON_SPACE});
    object.insert("x-guidance".to_owned(), options);
    Ok(Json::Object(object))
}

/// Why the library does not take a schema.
pub fn compiles(schema: &Json) -> Result<(), String> {
    numbers::check(schema)?;
    let builder = GrammarBuilder::new(None, limits());
    let schema = spaced(schema).map_err(|error| error.to_string())?;
    let result = JsonCompileOptions::default().json_to_llg_with_overrides(builder, schema);
    result.map(drop).map_err(|error| format!("{error:#}"))
}

/// A text as a Lark string.
pub fn string(text: &str) -> String {
    // JSON leaves this one control character as it is, Lark does not take it.
    Json::from(text).to_string().replace('\u{7f}', "\\u007f")
}
