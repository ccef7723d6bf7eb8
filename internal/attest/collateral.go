package attest

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Collateral is what is known about the hardware before evidence arrives. It is
// only read, and may be shared by any number of verifications.
type Collateral struct {
	// Roots must be set; without them every report is refused.
	Roots *Roots
	// CRLs are AMD's revocation lists, proved when they were loaded.
	CRLs *CRLs
	// VCEKs holds the certificates (DER) of registered chips under ChipKey. A
	// report whose chip is here needs no certificate of its own.
	VCEKs map[string][][]byte
	// VLEKs holds providers' certificates (DER), for policies that name one.
	VLEKs [][]byte
	// TDX is what Intel says of its platforms; without it every quote is refused.
	TDX *TDXCollateral
	// Grace is how long after its end a revocation list of AMD's still counts. It
	// is set only where a verdict rests on it; it is one of the objects, so that a
	// decision shows it and a replay grants it, too.
	Grace time.Duration
}

// ChipKey is the name of a chip in Collateral.VCEKs: CHIP_ID in lower-case hex.
func ChipKey(chipID []byte) string { return hex.EncodeToString(chipID) }

// CRLs is a set of revocation lists whose signatures have been proved. Proving one
// costs as much as a report, so it is done at loading and not with each verdict.
type CRLs struct {
	byRoot map[[sha256.Size]byte]*revocations
	// raw holds the lists as they were published.
	raw [][]byte
}

type revocations struct {
	thisUpdate, nextUpdate time.Time
	serials                map[string]bool
}

const (
	// maxCRLBytes bounds the entries, too: none is shorter than 20 bytes.
	maxCRLBytes = 1 << 20
	// maxGrace is the most that anybody can configure or put into a bundle.
	maxGrace = 7 * 24 * time.Hour
)

// ParseCRLs reads revocation lists (DER), each of which must be signed by one of
// the roots. Of two lists of one root the later decides until when they hold; what
// one of them names stays revoked, for a revocation is never taken back. AMD
// publishes a list for VCEKs and one for VLEKs under the same root, and nothing in
// them tells which is which: the caller gives those that are of the leaf's kind.
func ParseCRLs(roots *Roots, lists ...[]byte) (*CRLs, error) {
	if roots == nil {
		return nil, errors.New("reading revocation lists: no roots")
	}
	out := &CRLs{byRoot: make(map[[sha256.Size]byte]*revocations)}
	for i, der := range lists {
		if len(der) > maxCRLBytes {
			return nil, fmt.Errorf("reading revocation list %d: more than %d bytes", i, maxCRLBytes)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("reading revocation list %d: %w", i, err)
		}
		signer := roots.signerOf(list)
		if signer == nil {
			return nil, fmt.Errorf("reading revocation list %d: signed by none of the roots", i)
		}
		if list.NextUpdate.IsZero() {
			return nil, fmt.Errorf("reading revocation list %d: no next update", i)
		}
		r := &revocations{thisUpdate: list.ThisUpdate, nextUpdate: list.NextUpdate, serials: make(map[string]bool)}
		for _, e := range list.RevokedCertificateEntries {
			r.serials[e.SerialNumber.String()] = true
		}
		out.raw = append(out.raw, bytes.Clone(der))
		key := sha256.Sum256(signer.ark.Raw)
		if known := out.byRoot[key]; known == nil {
			out.byRoot[key] = r
		} else {
			known.merge(r)
		}
	}
	return out, nil
}

// merge takes in another list of the same root.
func (r *revocations) merge(other *revocations) {
	if other.thisUpdate.After(r.thisUpdate) {
		r.thisUpdate, r.nextUpdate = other.thisUpdate, other.nextUpdate
	}
	maps.Copy(r.serials, other.serials)
}

func (r *Roots) signerOf(list *x509.RevocationList) *authority {
	for _, as := range r.lines {
		for _, a := range as {
			if list.CheckSignatureFrom(a.ark) == nil {
				return a
			}
		}
	}
	return nil
}

func (c *CRLs) of(a *authority) *revocations {
	if c == nil {
		return nil
	}
	return c.byRoot[sha256.Sum256(a.ark.Raw)]
}

// covers reports whether the list speaks for the time at. A list from the future
// is no better than an expired one.
func (r *revocations) covers(at time.Time) bool {
	return !at.Before(r.thisUpdate) && at.Before(r.nextUpdate)
}

// coversWith is covers with a grace after the end; there is none before the beginning.
func (r *revocations) coversWith(grace time.Duration, at time.Time) bool {
	return grace > 0 && grace <= maxGrace && !at.Before(r.thisUpdate) && at.Before(r.nextUpdate.Add(grace))
}

func (r *revocations) lists(certs ...*x509.Certificate) bool {
	for _, c := range certs {
		if r.serials[c.SerialNumber.String()] {
			return true
		}
	}
	return false
}
