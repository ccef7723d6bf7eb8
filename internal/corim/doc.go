// Package corim reads, checks and makes signed reference values: CoRIM documents
// (draft-ietf-rats-corim) under a COSE signature (RFC 9052), in the part that says
// which digests a thing may have.
//
// # What it owns
//
// The bytes: a strict reader of CBOR, a writer of deterministic CBOR, COSE_Sign1
// under ES256, ES384 and EdDSA, and the reference triples of CoMID tags.
//
// # What holds
//
//   - nothing of a document is read before its signature holds under a key that
//     the caller gave. A key, a certificate or a key id in a header is nothing;
//   - an unsigned document, a signature over a hash, a detached payload, a header
//     marked critical and a profile that is not known here are refused;
//   - a document outside the time that it or its signature gives is refused. A
//     signature that says twice who made it says one name, and its shorter life counts;
//   - bytes are bounded before they are parsed, and so are depth and number of
//     items. There is one way to write a number or a length, none of them open,
//     and no map has a key twice;
//   - text that would not print on one line is refused, so that whoever shows a
//     document shows what it says;
//   - what is passed over (other triples, other tags, other members) is named in
//     Document.Passed, up to fifty kinds; of entities the names alone are read;
//   - the zero value of a key verifies and signs nothing, and a private key prints
//     as "[redacted]".
//
// # What it is not
//
// A document says what its signer says. Whether the signer is believed, and what
// follows, is for whoever calls: nothing here admits anything.
//
// The package has no database and no network, imports nothing of the project, and
// is told the time.
package corim
