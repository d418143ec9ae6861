//! Where the value of an argument ends, found as its characters come: strings and brackets, nothing else.

/// Whether the value goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lexed {
    Inside,
    /// The character is the comma or the parenthesis after the value.
    End,
    /// A bracket closes what was not opened.
    Unbalanced,
}

#[derive(Clone, Debug, Default)]
pub struct Lexer {
    closers: Vec<char>,
    string: Option<Quoted>,
    /// Where an empty string ended: one more quote there makes it three.
    empty_until: Option<usize>,
}

#[derive(Clone, Debug)]
struct Quoted {
    quote: char,
    triple: bool,
    escaped: bool,
    /// Where its text begins.
    start: usize,
    /// Unescaped quotes that just came.
    run: usize,
}

impl Lexer {
    /// Takes the next character, which is at byte `at`.
    pub fn push(&mut self, character: char, at: usize) -> Lexed {
        let after = at + character.len_utf8();
        if let Some(string) = &mut self.string {
            if string.escaped {
                string.escaped = false;
            } else if character == '\\' {
                string.escaped = true;
                string.run = 0;
            } else if character != string.quote {
                string.run = 0;
            } else {
                string.run += 1;
                if !string.triple || string.run == 3 {
                    self.empty_until = (!string.triple && string.start == at).then_some(after);
                    self.string = None;
                }
            }
            return Lexed::Inside;
        }
        match character {
            '"' | '\'' => {
                let triple = self.empty_until == Some(at);
                let string = Quoted { quote: character, triple, escaped: false, start: after, run: 0 };
                self.string = Some(string);
            }
            '(' => self.closers.push(')'),
            '[' => self.closers.push(']'),
            '{' => self.closers.push('}'),
            ')' | ',' if self.closers.is_empty() => return Lexed::End,
            ')' | ']' | '}' if self.closers.pop() != Some(character) => return Lexed::Unbalanced,
            _ => {}
        }
        Lexed::Inside
    }
}
