// Package p384 checks ECDSA signatures of a P-384 key that signs often, several
// times faster than crypto/ecdsa does, by a table of the key's multiples.
//
// It owns the choice of the table and the verification equation (FIPS 186-5,
// §6.4.2), and nothing below: the points are those of filippo.io/nistec, which is
// the standard library's own implementation with its complete addition formulas,
// exported. There is therefore no exceptional case of the addition to get wrong,
// and every verdict must equal that of crypto/ecdsa, which a differential fuzz
// test asks.
//
// All of its inputs are public: key, digest and signature of an attestation
// report. Time and memory access depend on them, so it must never be used with a
// secret scalar; it has no function that takes one.
package p384
