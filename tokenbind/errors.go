package tokenbind

// codeUnavailable marks a check that could not be made.
const codeUnavailable = "temporarily_unavailable"
