// Package guesttest is the other side of a guest in tests: a broker that speaks the native door over one
// volume, without database or judgement, and a stand-in for the simulated processor.
//
// The broker refuses what the real one refuses (a used nonce, a report for other keys, a wrong
// signature under an event), so that a guest that passes here says the right things. What a real
// report must contain is not its business.
package guesttest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
)

// Broker holds one volume's keys and hands them to whoever reports correctly.
type Broker struct {
	Key ed25519.PrivateKey
	// Volume is what the next grant seals; its mode turns to open when a header is recorded.
	Volume door.Sealed
	// Lease is how long a lease lasts, RenewAfter when it is to be renewed.
	Lease, RenewAfter time.Duration
	// Forge, when set, signs grants instead of Key.
	Forge ed25519.PrivateKey
	// Intercept, when set, sees every request before it is handled. A status ends the
	// request with it; lose handles the request and then loses the answer.
	Intercept func(path string, body []byte) (status int, lose bool)
	Now       func() time.Time

	mu         sync.Mutex
	challenges map[string]issued
	answered   map[string]door.Grant
	signer     ed25519.PublicKey
	events     []door.Event
	grants     int
	changed    chan struct{}
}

type issued struct {
	req   door.ChallengeRequest
	nonce []byte
}

// New makes a broker for one volume that is yet to be formatted.
func New(serial string) *Broker {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	v := door.Sealed{Mode: door.Initialise, VolumeSerial: serial, LUKSKey: make(door.Secret, door.LUKSKeySize), HeaderMACKey: make(door.Secret, door.HeaderMACKeySize)}
	rand.Read(v.LUKSKey)
	rand.Read(v.HeaderMACKey)
	return &Broker{
		Key: key, Volume: v, Lease: time.Hour, RenewAfter: 30 * time.Minute, Now: time.Now,
		challenges: map[string]issued{}, answered: map[string]door.Grant{}, changed: make(chan struct{}),
	}
}

// KeyHash is siesta.kb.
func (b *Broker) KeyHash() string { return door.KeyHash(b.Key.Public().(ed25519.PublicKey)) }

// Events are the events so far, each seq once.
func (b *Broker) Events() []door.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

// Grants counts grants that were made, not redelivered.
func (b *Broker) Grants() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.grants
}

// Await returns the first event of a stage at or after the from-th event.
func (b *Broker) Await(ctx context.Context, from int, stage door.Stage) (door.Event, error) {
	for {
		b.mu.Lock()
		events, changed := b.events, b.changed
		b.mu.Unlock()
		for _, e := range events[min(from, len(events)):] {
			if e.Stage == stage {
				return e, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return door.Event{}, fmt.Errorf("awaiting %s: %w", stage, ctx.Err())
		}
	}
}

// ServeHTTP is the native door.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, door.MaxGrantRequest))
	if err != nil {
		http.Error(w, "body", http.StatusBadRequest)
		return
	}
	lose := false
	if b.Intercept != nil {
		var status int
		if status, lose = b.Intercept(r.URL.Path, body); status != 0 {
			problem(w, status)
			return
		}
	}
	b.mu.Lock()
	answer, err := b.handle(r.URL.Path, body)
	b.mu.Unlock()
	switch {
	case lose:
		panic(http.ErrAbortHandler) // the request was handled, the answer never arrives
	case err != nil:
		problem(w, http.StatusForbidden)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}
}

func problem(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"about:blank","title":"refused","status":%d,"instance":"urn:refusal:test"}`, status)
}

func (b *Broker) handle(path string, body []byte) (any, error) {
	switch {
	case path == "/v1/challenges":
		return b.challenge(body)
	case path == "/v1/grants":
		return b.grant(body)
	case strings.HasPrefix(path, "/v1/guests/") && strings.HasSuffix(path, "/events"):
		return b.event(strings.TrimSuffix(strings.TrimPrefix(path, "/v1/guests/"), "/events"), body)
	}
	return nil, errors.New("no such path")
}

func (b *Broker) challenge(body []byte) (any, error) {
	req, err := door.DecodeChallengeRequest(body)
	if err != nil {
		return nil, err
	}
	id := strings.ToLower(rand.Text())
	ch := door.Challenge{Challenge: id, Nonce: make([]byte, door.NonceSize), ExpiresAt: door.FormatTime(b.Now().Add(door.ChallengeLife))}
	rand.Read(ch.Nonce)
	door.SignChallenge(b.Key, req, &ch)
	b.challenges[id] = issued{req, ch.Nonce}
	return ch, nil
}

// reportDataAt is where an SNP report has its 64 bytes.
const reportDataAt = 0x50

func (b *Broker) grant(body []byte) (any, error) {
	req, err := door.DecodeGrantRequest(body)
	if err != nil {
		return nil, err
	}
	if g, ok := b.answered[string(body)]; ok {
		return g, nil
	}
	c, ok := b.challenges[req.Challenge]
	if !ok {
		return nil, errors.New("the nonce is used or unknown")
	}
	delete(b.challenges, req.Challenge)
	want := door.ReportData(door.Binding{
		Challenge: req.Challenge, Nonce: c.nonce, Workspace: c.req.Workspace, Generation: c.req.Generation, Purpose: c.req.Purpose,
		KEM: req.HPKE.KEM, HPKEKey: req.HPKE.PublicKey, SigningKey: req.SigningKey, HeaderHash: req.HeaderHash,
	})
	if len(req.Evidence.Report) < reportDataAt+64 || !bytes.Equal(req.Evidence.Report[reportDataAt:reportDataAt+64], want[:]) {
		return nil, errors.New("the report is for other keys")
	}
	now := b.Now()
	g := door.Grant{Lease: door.Lease{ID: "lease-1", Until: door.FormatTime(now.Add(b.Lease)), RenewAfter: door.FormatTime(now.Add(b.RenewAfter))}}
	if c.req.Purpose == door.Renew {
		if !bytes.Equal(req.SigningKey, b.signer) || req.HeaderHash != b.Volume.HeaderHash {
			return nil, errors.New("another guest renews")
		}
	} else {
		b.signer = req.SigningKey
		g.Context = door.Context{Project: "project", Volume: "volume", PolicyHash: hex.EncodeToString(make([]byte, 32))}
		if g.Sealed, err = door.Seal(req.HPKE, door.GrantInfo(g.Context, c.req, c.nonce), b.Volume); err != nil {
			return nil, err
		}
	}
	key := b.Key
	if b.Forge != nil {
		key = b.Forge
	}
	door.SignGrant(key, req.Challenge, c.nonce, &g)
	b.answered[string(body)] = g
	b.grants++
	return g, nil
}

func (b *Broker) event(lease string, body []byte) (any, error) {
	e, err := door.DecodeEvent(body)
	if err != nil {
		return nil, err
	}
	if err := door.VerifyEvent(b.signer, lease, e); err != nil {
		return nil, err
	}
	known := slices.ContainsFunc(b.events, func(o door.Event) bool { return bytes.Equal(o.Signature, e.Signature) })
	if !known {
		b.events = append(b.events, e)
		close(b.changed)
		b.changed = make(chan struct{})
	}
	if e.Stage == door.Formatted {
		b.Volume.Mode, b.Volume.HeaderHash = door.Open, e.HeaderHash
		return door.SignAck(b.Key, lease, e), nil
	}
	return door.EventAnswer{Seq: e.Seq}, nil
}
