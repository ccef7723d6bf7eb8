package floor

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// ErrInvalid: the file is none, or nobody who is trusted has signed it.
var ErrInvalid = errors.New("not a valid floor file")

// MaxSize bounds a file before it is parsed.
const MaxSize = 128 << 10

const (
	label         = "siesta/floor/v1\n"
	maxAdvisories = 500
	maxProducts   = 20
)

// TDX is the product name of Intel's platforms, whose levels a file gives as a TCB evaluation data number.
const TDX = "TDX"

// File is what a floor file says.
type File struct {
	Version    int        `json:"version"`
	Issued     time.Time  `json:"issued"`
	Advisories []Advisory `json:"advisories"`
}

// Advisory is one bulletin of a vendor and the levels at which it is mended.
type Advisory struct {
	ID       string    `json:"id"`
	Date     string    `json:"date"`
	Title    string    `json:"title,omitempty"`
	Products []Product `json:"products"`
}

// Product is the level of one product line.
type Product struct {
	Product string      `json:"product"`
	MinTCB  *attest.TCB `json:"min_tcb,omitempty"`
	// MinEvaluation is the least tcbEvaluationDataNumber of Intel's TCB info under which a verdict may stand.
	MinEvaluation int `json:"min_tcb_evaluation,omitempty"`
}

type envelope struct {
	Payload   []byte `json:"payload"`
	Key       string `json:"key"`
	Signature []byte `json:"signature"`
}

// KeyID names a key as files do.
func KeyID(key ed25519.PublicKey) string {
	h := sha256.Sum256(key)
	return hex.EncodeToString(h[:])
}

// Sign makes a file of a payload that reads as one.
func Sign(payload []byte, key ed25519.PrivateKey) ([]byte, error) {
	f, err := parse(payload)
	if err == nil {
		err = f.judgeable()
	}
	if err != nil {
		return nil, fmt.Errorf("signing a floor file: %w", err)
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("signing a floor file: %w: no key", ErrInvalid)
	}
	return json.Marshal(envelope{Payload: payload, Key: KeyID(public), Signature: ed25519.Sign(key, append([]byte(label), payload...))})
}

// Verify reads a file that one of the keys has signed, and all of which would hold.
func Verify(body []byte, keys []ed25519.PublicKey) (File, error) {
	e, err := open(body)
	if err != nil {
		return File{}, err
	}
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize && KeyID(key) == e.Key {
			if !ed25519.Verify(key, append([]byte(label), e.Payload...), e.Signature) {
				return File{}, fmt.Errorf("%w: the signature is wrong", ErrInvalid)
			}
			f, err := parse(e.Payload)
			if err == nil {
				err = f.judgeable()
			}
			if err != nil {
				return File{}, err
			}
			return f, nil
		}
	}
	return File{}, fmt.Errorf("%w: signed by none of the configured keys", ErrInvalid)
}

// ReadUnverified reads a file that was verified when it was stored. What that means may have grown since: a file in force stays
// in force.
func ReadUnverified(body []byte) (File, error) {
	e, err := open(body)
	if err != nil {
		return File{}, err
	}
	return parse(e.Payload)
}

func open(body []byte) (envelope, error) {
	var e envelope
	if len(body) > MaxSize {
		return e, fmt.Errorf("%w: more than %d bytes", ErrInvalid, MaxSize)
	}
	if err := strict(body, &e); err != nil {
		return e, err
	}
	return e, nil
}

var (
	idPattern      = regexp.MustCompile(`^(AMD-SB-[0-9]{3,6}|INTEL-SA-[0-9]{3,6})$`)
	productPattern = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{1,30}$`)
)

func parse(payload []byte) (File, error) {
	var f File
	if err := strict(payload, &f); err != nil {
		return File{}, err
	}
	bad := func(format string, args ...any) (File, error) {
		return File{}, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	switch {
	case f.Version != 1:
		return bad("version %d, want 1", f.Version)
	case f.Issued.IsZero():
		return bad("it does not say when it was issued")
	case len(f.Advisories) == 0 || len(f.Advisories) > maxAdvisories:
		return bad("it has %d advisories, want 1 to %d", len(f.Advisories), maxAdvisories)
	}
	seen := map[string]bool{}
	for i, a := range f.Advisories {
		if !idPattern.MatchString(a.ID) || seen[a.ID] {
			return bad("advisory %d has no id of AMD-SB or INTEL-SA form, or one that was there before", i)
		}
		seen[a.ID] = true
		if _, err := time.Parse(time.DateOnly, a.Date); err != nil {
			return bad("%s: the date is not YYYY-MM-DD", a.ID)
		}
		if len(a.Products) == 0 || len(a.Products) > maxProducts || len(a.Title) > 300 {
			return bad("%s: no product, too many, or too long a title", a.ID)
		}
		for _, p := range a.Products {
			tdx := p.Product == TDX
			if !productPattern.MatchString(p.Product) || tdx != (p.MinTCB == nil) || tdx != (p.MinEvaluation > 0) {
				return bad("%s: a product line has min_tcb, and TDX has min_tcb_evaluation", a.ID)
			}
		}
	}
	return f, nil
}

// judgeable refuses what would raise nothing: a product that no evidence comes from, or a level that is none.
func (f File) judgeable() error {
	lines := attest.ProductLines()
	for _, a := range f.Advisories {
		for _, p := range a.Products {
			switch {
			case p.Product == TDX:
			case !slices.Contains(lines, p.Product):
				return fmt.Errorf("%w: %s: no evidence comes from a product line %s: name %s (Genoa for Bergamo and Siena, too) or %s",
					ErrInvalid, a.ID, p.Product, strings.Join(lines, ", "), TDX)
			case *p.MinTCB == attest.TCB{}:
				return fmt.Errorf("%w: %s: min_tcb of %s asks for nothing: give the levels at which it is mended", ErrInvalid, a.ID, p.Product)
			case p.MinTCB.FMC != 0 && p.Product != attest.Turin:
				return fmt.Errorf("%w: %s: no %s can have an fmc level, only %s has: take it out", ErrInvalid, a.ID, p.Product, attest.Turin)
			}
		}
	}
	return nil
}

func strict(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: it is not of the form that a floor file has", ErrInvalid)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows the JSON value", ErrInvalid)
	}
	return nil
}

// MinTCB is the floor of a product line over all advisories, and those that ask for more than base.
func (f File) MinTCB(product string, base attest.TCB) (attest.TCB, []string) {
	out, because := base, []string(nil)
	for _, a := range f.Advisories {
		for _, p := range a.Products {
			if p.Product == product && p.MinTCB != nil && !base.AtLeast(*p.MinTCB) {
				out, because = higher(out, *p.MinTCB), append(because, a.ID)
			}
		}
	}
	return out, because
}

// MinEvaluation is the floor for the tcbEvaluationDataNumber over all advisories, and those that ask for more than base.
func (f File) MinEvaluation(base int) (int, []string) {
	out, because := base, []string(nil)
	for _, a := range f.Advisories {
		for _, p := range a.Products {
			if p.MinEvaluation > base {
				out, because = max(out, p.MinEvaluation), append(because, a.ID)
			}
		}
	}
	return out, because
}

func higher(a, b attest.TCB) attest.TCB {
	return attest.TCB{
		FMC: max(a.FMC, b.FMC), Bootloader: max(a.Bootloader, b.Bootloader), TEE: max(a.TEE, b.TEE),
		SNP: max(a.SNP, b.SNP), Microcode: max(a.Microcode, b.Microcode),
	}
}
