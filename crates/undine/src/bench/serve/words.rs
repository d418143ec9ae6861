//! Words for prompts when there is no tokenizer to take them from: frequent ones, a token each to most
//! models.

/// Separated by blanks.
pub const WORDS: &str = "
    time year people way day man thing woman life child world school state family student group country problem
    hand part place case week company system program question work number night point home water room mother area
    money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city community name president team minute idea body information
    back parent face others level office door health person art war history party result change morning reason
    research girl guy moment air teacher force education good new first last long great little own other old big
    high different small large next early young important few public bad same able know take see come think look
    want give use find tell ask seem feel try leave call move live believe hold bring happen write provide sit stand";
