package attest

import (
	"crypto/sha256"
	"time"
)

// read parses a leaf, or finds it among those already proved.
func (j *judgement) read(der []byte) *vcek {
	if ch := j.cache.get(j.key(sha256.Sum256(der))); ch != nil {
		return ch.leaf
	}
	v, err := parseLeaf(der)
	if err != nil {
		return nil
	}
	return v
}

func (j *judgement) key(leaf [sha256.Size]byte) chainKey {
	k := chainKey{leaf: leaf}
	if j.col.Roots != nil {
		k.roots = j.col.Roots.id
	}
	return k
}

// prove returns the chain of a leaf up to a root of the product line, proved now
// or earlier; an earlier proof counts only inside its window.
func (j *judgement) prove(leaf *vcek, line string) *chain {
	const expected = "a root of the product line"
	if j.col.Roots == nil || j.at.IsZero() {
		j.fail(checkChain, expected, "", "there are no roots, or no time, to judge by")
		return nil
	}
	key := j.key(leaf.sum)
	if ch := j.cache.get(key); ch != nil && ch.by.line == line {
		if !ch.validAt(j.at) {
			j.fail(checkChain, window(ch.notBefore, ch.notAfter), stamp(j.at), "a certificate of the chain is not valid at this time")
			return nil
		}
		j.pass(checkChain, ch.by.ark.Subject.CommonName)
		return ch
	}
	ch, err := proveChain(leaf, j.col.Roots.lines[line], j.at)
	if err != nil {
		// The library's text may quote names from a certificate that came with the
		// evidence, so only our own words are kept.
		j.fail(checkChain, expected, "", "the certificate was not signed by AMD's key for this product line, or is not valid at this time")
		return nil
	}
	j.cache.put(key, ch)
	j.pass(checkChain, ch.by.ark.Subject.CommonName)
	return ch
}

// revocation asks the list of the chain's root. A list that names one of the
// certificates refuses even when the policy does not ask for lists, and even
// after it expired or before it was published.
func (j *judgement) revocation(ch *chain) {
	list := j.col.CRLs.of(ch.by)
	current := list != nil && list.covers(j.at)
	if list == nil {
		j.skip(checkRevoked, "there is no revocation list")
	} else {
		j.judge(checkRevoked, !list.lists(ch.issuer, ch.leaf.cert), "not revoked", map[bool]string{true: "revoked", false: "not revoked"}[list.lists(ch.issuer, ch.leaf.cert)],
			"a certificate of the chain has been revoked")
	}
	const expected = "a list valid at this time"
	switch {
	case current:
		j.judge(checkRevocation, true, expected, window(list.thisUpdate, list.nextUpdate), "")
	case list != nil && list.coversWith(j.col.Grace, j.at):
		j.judge(checkRevocation, true, expected, window(list.thisUpdate, list.nextUpdate)+" and a grace of "+j.col.Grace.String(), "")
	case j.pol.Revocation == RevocationNotJudged:
		j.skip(checkRevocation, "the policy does not ask")
	case list == nil:
		j.fail(checkRevocation, expected, "none", "there is no revocation list of this root")
	case j.at.Before(list.thisUpdate):
		j.fail(checkRevocation, expected, window(list.thisUpdate, list.nextUpdate), "the revocation list is from the future")
	default:
		j.fail(checkRevocation, expected, window(list.thisUpdate, list.nextUpdate), "the revocation list has expired")
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func window(from, to time.Time) string { return stamp(from) + " to " + stamp(to) }
