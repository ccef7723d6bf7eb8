// Package door is the native door between a guest and the broker: its messages, what is signed, what is hashed into the
// report, and how the key travels. Broker and guest import the same functions, so that neither can drift.
//
// # Rules of encoding
//
// LP(x) is the 8-byte big-endian length of x, then x. Everything that is hashed or signed is a list of LP fields whose
// first is a label ending in /v1, so that bytes made for one purpose cannot be taken for another. A field that is text in
// JSON enters as that very text (ids, times, generation in decimal, hexadecimal hashes); a field that is base64 in JSON
// enters as the bytes it stands for.
//
//	challenge  B signs  siesta/challenge/v1, challenge, nonce, workspace, generation, purpose, expiry
//	evidence   SHA-512  siesta/evidence/v1, challenge, nonce, workspace, generation, purpose, kem, HPKE key, S, header hash or empty
//	grant      HPKE     siesta/grant/v1, project, workspace, generation, volume, nonce, policy hash, purpose     (info)
//	grant      B signs  siesta/grant/v1, challenge, nonce, SHA-256(LP(enc) LP(ciphertext)), lease id, until, renew after
//	event      S signs  siesta/event/v1, lease, seq, stage, header hash, detail
//	answer     B signs  siesta/answer/v1, lease, seq, stage, header hash
//
// # What holds
//
// The guest acts on nothing that B, the broker's Ed25519 key whose hash is measured into its command line, has not
// signed: sealing alone would let anybody seal a key of his own choosing. The broker releases nothing to a key that is
// not inside the report. Input is bounded before it is parsed, and a message that says anything twice, or anything
// unknown, or anything after its end, is refused.
//
// The package has no state, no clock and no network, and imports nothing of the project.
package door
