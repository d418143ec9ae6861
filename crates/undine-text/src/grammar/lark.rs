//! The rules of an answer as llguidance grammars (its dialect of Lark, with JSON schemas within).

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::regex_to_lark;
use serde_json::{Map, Value as Json, json};

use super::library::Grammars;
use super::vocabulary::CallMarkers;
use super::{
    AnswerFormat, CHOICE_BYTES_MAX, CHOICES_MAX, GRAMMAR_BYTES_MAX, PROPERTIES_MAX, PROPERTIES_SUM_MAX,
    REGEX_BYTES_MAX, SCHEMA_BYTES_MAX, ToolChoice, ToolRules, call, gbnf, numbers,
};
use crate::tools::{TOOL_CALL_END, TOOL_CALL_START, Tool};
use crate::{TextError, exact};

/// White space between the parts of JSON: one space, or a line break and an indent. Without a limit a weak model can
/// spend its whole answer on it.
const JSON_SPACE: &str = r"\x20|\n\x20{0,40}|\n\t{0,10}";

/// The name of the grammar of the answer without calls.
const ANSWER: &str = "answer";

/// The grammars of an answer.
pub fn grammars(
    format: &AnswerFormat,
    tools: Option<&ToolRules>,
    markers: CallMarkers,
) -> Result<Grammars, TextError> {
    let answer = answer(format)?;
    let Some(tools) = tools.filter(|tools| !tools.set.is_empty()) else {
        return match (tools, answer) {
            (Some(ToolRules { choice: ToolChoice::Required | ToolChoice::Named(_), .. }), _) => {
                Err(TextError::Grammar("a tool call is required, but no tools are declared".to_owned()))
            }
            (_, None) => Ok(Grammars::Free),
            (_, Some(answer)) => Ok(Grammars::Whole(TopLevelGrammar::from_grammar(answer))),
        };
    };
    let CallMarkers { start, end } = markers;
    let [start_marker, end_marker] =
        [(TOOL_CALL_START, start), (TOOL_CALL_END, end)].map(|(marker, is_token)| {
            // A marker in angle brackets names a control token; a vocabulary without it spells it.
            if is_token { marker.to_owned() } else { string(marker) }
        });
    let calls = call::lark(&callable(tools)?, tools.parallel)?;
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

fn callable(tools: &ToolRules) -> Result<Vec<&Tool>, TextError> {
    match &tools.choice {
        ToolChoice::Auto | ToolChoice::Required => Ok(tools.set.tools().iter().collect()),
        ToolChoice::Named(name) => tools.set.get(name).map(|tool| vec![tool]).ok_or_else(|| {
            TextError::Grammar(format!("tool_choice names {name:?}, which is not among the tools"))
        }),
    }
}

fn answer(format: &AnswerFormat) -> Result<Option<GrammarWithLexer>, TextError> {
    Ok(Some(match format {
        AnswerFormat::Free => return Ok(None),
        AnswerFormat::JsonObject => GrammarWithLexer::from_json_schema(spaced(&json!({"type": "object"}))?),
        AnswerFormat::JsonSchema(schema) => {
            check_size("the JSON schema", schema.to_string().len(), SCHEMA_BYTES_MAX)?;
            let sum = properties(schema)?;
            if sum > PROPERTIES_SUM_MAX {
                let found = format!(
                    "the JSON schema declares {sum} properties; expected at most {PROPERTIES_SUM_MAX}"
                );
                return Err(TextError::Grammar(found));
            }
            match numbers::check(schema, "the schema") {
                Ok(()) => GrammarWithLexer::from_json_schema(spaced(schema)?),
                // Its constants as literal text, if nothing else stands in the way.
                Err(error) => GrammarWithLexer::from_lark(call::json_lark(schema).ok_or(error)?),
            }
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

/// A schema with the white space that answers may have.
pub fn spaced(schema: &Json) -> Result<Json, TextError> {
    with_options(schema, json!({"whitespace_flexible": false, "whitespace_pattern": JSON_SPACE}))
}

/// The same; what grammars cannot enforce is left out of it.
pub fn relaxed(schema: &Json) -> Result<Json, TextError> {
    with_options(
        schema,
        json!({"whitespace_flexible": false, "whitespace_pattern": JSON_SPACE, "lenient": true}),
    )
}

fn with_options(schema: &Json, options: Json) -> Result<Json, TextError> {
    let schema = &exact::forgotten(schema);
    let mut object = match schema {
        Json::Object(object) => object.clone(),
        Json::Bool(true) => Map::new(),
        found => {
            let found = format!("the JSON schema is {found}; expected an object, or true");
            return Err(TextError::Grammar(found));
        }
    };
    object.insert("x-guidance".to_owned(), options);
    Ok(Json::Object(object))
}

/// A text as a Lark string.
pub fn string(text: &str) -> String {
    // JSON leaves this one control character as it is, Lark does not take it.
    Json::from(text).to_string().replace('\u{7f}', "\\u007f")
}
