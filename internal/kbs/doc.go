// Package kbs is the wire format of the Confidential Containers key broker
// protocol, version 0.4.0, as stock clients speak it: its messages, its evidence
// forms, what is hashed into a report, and how a secret is sealed to a guest.
//
// # What it owns
//
// Decoding of the bodies of /auth and /attest, the answers and errors, the rules
// of paths, the rebuilding of a report from its JSON form, the binding of nonce
// and key to REPORT_DATA, and the sealed answer (JWE).
//
// # What holds
//
//   - input is bounded before it is parsed, and JSON is read by a reader that
//     refuses a name given twice, nesting, text that is not Unicode, numbers that
//     are no integers of their field's width, and anything after the end. A
//     64-bit number never passes through a float;
//   - what is hashed is written from typed values and never copied from what the
//     client sent, so a key has one text only;
//   - a member that is not known is refused where it would be hashed or sealed to
//     (runtime data, key, init-data), and ignored elsewhere, as stock servers do;
//   - evidence that proves nothing (sample and its like) is refused by name;
//   - the zero value of every type refuses;
//   - the text of an error that goes to a client holds no byte of the evidence.
//
// # Whom it trusts
//
// Nobody, and it judges nothing: whether a report is genuine is attest's matter.
// What is rebuilt from JSON is believed only once its signature holds, and bytes
// that the form cannot carry are zero, so a report of a newer form fails there.
//
// The package has no state, no clock, no network and no database, and imports
// nothing of the project.
package kbs
