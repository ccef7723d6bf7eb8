package corim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// ErrInvalid: the bytes are no document that can be used, or nobody who is trusted has signed them.
var ErrInvalid = errors.New("not a valid CoRIM")

// Signed is a document whose signature holds.
type Signed struct {
	// Key names the key under which it holds; see PublicKey.ID.
	Key string `json:"key"`
	// Signer is the name that the signer gives itself.
	Signer string `json:"signer"`
	// NotBefore and NotAfter bound the signature; zero ones are open.
	NotBefore time.Time `json:"signature_not_before,omitzero"`
	NotAfter  time.Time `json:"signature_not_after,omitzero"`
	Document  Document  `json:"document"`
	// Statement is the SHA-256 of the key's id and of what its signature covers. Two bodies that differ in what nobody signed
	// have the same one.
	Statement [32]byte `json:"-"`
}

// Until is when document or signature ends, whichever is first; the zero time if neither does.
func (s Signed) Until() time.Time {
	if a, b := s.NotAfter, s.Document.NotAfter; a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return s.NotAfter
}

const (
	tagSign1       = 18
	tagOuter       = 500 // of drafts before 2025, as is tagSigned
	tagSigned      = 502
	contentType    = "application/rim+cbor"
	contentTypeOld = "application/corim-unsigned+cbor"
)

// Labels of protected headers.
const (
	headerAlg         = 1
	headerCrit        = 2
	headerContentType = 3
	headerKeyID       = 4
	headerMeta        = 8
	headerCWT         = 15
	headerPayloadHash = 258
)

// Verify reads a document that one of the keys has signed and that is good at now.
func Verify(body []byte, keys []PublicKey, now time.Time) (Signed, error) {
	if len(body) > MaxSize {
		return Signed{}, bad("more than %d bytes", MaxSize)
	}
	if now.IsZero() {
		return Signed{}, errors.New("verifying a CoRIM: no time was given")
	}
	outer, err := decode(body)
	if err != nil {
		return Signed{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	protected, payload, signature, err := sign1(outer)
	if err != nil {
		return Signed{}, err
	}
	headers, err := readHeaders(protected)
	if err != nil {
		return Signed{}, err
	}
	message := toBeSigned(protected, payload)
	key, ok := signedBy(keys, headers.alg, message, signature)
	if !ok {
		return Signed{}, bad("signed by none of the given keys")
	}
	out := Signed{Key: key.ID(), Statement: sha256.Sum256(append(key.id[:], message...))}
	if err := headers.read(&out); err != nil {
		return Signed{}, err
	}
	if out.Document, err = readDocument(payload); err != nil {
		return Signed{}, err
	}
	for _, p := range [][2]time.Time{{out.NotBefore, out.NotAfter}, {out.Document.NotBefore, out.Document.NotAfter}} {
		if !p[0].IsZero() && now.Before(p[0]) {
			return Signed{}, bad("not good before %s", p[0].Format(time.RFC3339))
		}
		if !p[1].IsZero() && now.After(p[1]) {
			return Signed{}, bad("not good after %s", p[1].Format(time.RFC3339))
		}
	}
	return out, nil
}

// sign1 takes a COSE_Sign1 apart, with or without the tags that older drafts put around it.
func sign1(it item) (protected, payload, signature []byte, err error) {
	fail := func(why string) ([]byte, []byte, []byte, error) { return nil, nil, nil, bad("%s", why) }
	if inner, ok := it.untag(tagOuter); ok {
		it = inner
	}
	if _, ok := it.untag(tagUnsigned); ok {
		return fail("it is not signed")
	}
	if inner, ok := it.untag(tagSigned); ok {
		it = inner
	}
	m, ok := it.untag(tagSign1)
	if !ok || m.major != majorArray || len(m.list) != 4 {
		return fail("it is no COSE_Sign1 (tag 18)")
	}
	if m.list[2].major != majorBytes {
		return fail("its payload is detached")
	}
	if m.list[0].major != majorBytes || m.list[1].major != majorMap || m.list[3].major != majorBytes {
		return fail("its parts are not those of a COSE_Sign1")
	}
	return m.list[0].text, m.list[2].text, m.list[3].text, nil
}

// toBeSigned is the Sig_structure of RFC 9052 §4.4, without external data.
func toBeSigned(protected, payload []byte) []byte {
	return encodeArray(encodeText("Signature1"), encodeBytes(protected), encodeBytes(nil), encodeBytes(payload))
}

// signedBy tries the keys of the algorithm. Key ids are hints of a stranger and are not looked at.
func signedBy(keys []PublicKey, alg int64, message, signature []byte) (PublicKey, bool) {
	for _, key := range keys {
		if key.key != nil && key.alg == alg && key.verify(message, signature) {
			return key, true
		}
	}
	return PublicKey{}, false
}

type headers struct {
	alg int64
	all item
}

// readHeaders reads what has to be known before a signature can be judged.
func readHeaders(protected []byte) (headers, error) {
	m, err := decode(protected)
	if err != nil || m.major != majorMap {
		return headers{}, bad("its protected headers cannot be read")
	}
	if _, ok := m.get(headerCrit); ok {
		return headers{}, bad("a header is marked critical, and none of those is known here")
	}
	if _, ok := m.get(headerPayloadHash); ok {
		return headers{}, bad("only the hash of the document is signed, the document is elsewhere")
	}
	it, _ := m.get(headerAlg)
	alg, ok := it.int64()
	if !ok || alg != algES256 && alg != algES384 && alg != algEdDSA {
		return headers{}, bad("its algorithm is none of ES256, ES384 and EdDSA")
	}
	if it, ok := m.get(headerContentType); !ok || it.major != majorText || string(it.text) != contentType && string(it.text) != contentTypeOld {
		return headers{}, bad("its content type is not %s", contentType)
	}
	return headers{alg, m}, nil
}

// read takes the signer's name and the signature's life from corim-meta and CWT claims. Where both are there they name one
// signer, and the shorter life counts.
func (h headers) read(out *Signed) error {
	meta, hasMeta := h.all.get(headerMeta)
	claims, hasClaims := h.all.get(headerCWT)
	if !hasMeta && !hasClaims {
		return bad("it says neither in corim-meta nor in CWT claims who signed it")
	}
	if hasMeta {
		if err := out.readMeta(meta); err != nil {
			return err
		}
	}
	if hasClaims {
		return out.readClaims(claims)
	}
	return nil
}

func (s *Signed) readMeta(it item) error {
	m, err := decode(it.text)
	if it.major != majorBytes || err != nil {
		return bad("its corim-meta cannot be read")
	}
	signer, _ := m.get(0)
	text, _ := signer.get(0)
	if s.Signer, err = printable(text, "signer-name"); err != nil {
		return err
	}
	if period, ok := m.get(1); ok {
		s.NotBefore, s.NotAfter, err = validity(period)
	}
	return err
}

func (s *Signed) readClaims(claims item) error {
	it, _ := claims.get(1)
	issuer, err := printable(it, "iss")
	if err != nil {
		return err
	}
	if s.Signer != "" && s.Signer != issuer {
		return bad("corim-meta and CWT claims name different signers")
	}
	s.Signer = issuer
	if it, ok := claims.get(4); ok {
		exp, err := instant(it)
		if err != nil {
			return err
		}
		if s.NotAfter.IsZero() || exp.Before(s.NotAfter) {
			s.NotAfter = exp
		}
	}
	if it, ok := claims.get(5); ok {
		nbf, err := instant(it)
		if err != nil {
			return err
		}
		if nbf.After(s.NotBefore) {
			s.NotBefore = nbf
		}
	}
	return nil
}

// Sign makes a signed document. What Verify would refuse is refused here.
func Sign(d Document, signer string, key PrivateKey) ([]byte, error) {
	doing := func(err error) ([]byte, error) { return nil, fmt.Errorf("signing a CoRIM: %w", err) }
	payload := write(d)
	meta := map[int64][]byte{0: encodeMap(map[int64][]byte{0: encodeText(signer)})}
	if !d.NotAfter.IsZero() {
		meta[1] = writeValidity(d.NotBefore, d.NotAfter)
	}
	protected := encodeMap(map[int64][]byte{
		headerAlg: encodeInt(key.public.alg), headerContentType: encodeText(contentType), headerKeyID: encodeBytes(key.public.id[:]),
		headerMeta: encodeBytes(encodeMap(meta)),
	})
	signature, err := key.sign(toBeSigned(protected, payload))
	if err != nil {
		return doing(err)
	}
	body := encodeTag(tagSign1, encodeArray(encodeBytes(protected), encodeMap(nil), encodeBytes(payload), encodeBytes(signature)))
	at := d.NotAfter
	if at.IsZero() {
		at = time.Unix(1, 0)
	}
	if _, err := Verify(body, []PublicKey{key.public}, at); err != nil {
		return doing(err)
	}
	return body, nil
}
