package guest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
)

// session is one boot towards the broker: one HPKE key, one signing key, one lease at a
// time.
type session struct {
	line     Line
	client   *client
	reporter Reporter
	hpke     *door.PrivateKey
	sign     ed25519.PrivateKey

	broker     ed25519.PublicKey // once a challenge has proven it
	headerHash string            // of the opened volume, bound into renewals
	lease      lease
	seq        int
	unsent     []door.Event // reports that the broker has not answered yet, in order
}

type lease struct {
	id         string
	until      time.Time // by the monotonic clock
	renewAfter time.Time
	granted    time.Time // by the broker's clock, for people
}

func newSession(line Line, c *client, r Reporter) (*session, error) {
	key, err := door.GenerateKey(door.KEMDefault)
	if err != nil {
		return nil, err
	}
	_, sign, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("making the signing key: %w", err)
	}
	return &session{line: line, client: c, reporter: r, hpke: key, sign: sign}, nil
}

// obtain asks until it is granted or refused or ctx ends. It opens nothing.
func (s *session) obtain(ctx context.Context, purpose door.Purpose) (door.Grant, []byte, error) {
	for {
		g, info, err := s.attempt(ctx, purpose)
		if !errors.Is(err, errExpired) || ctx.Err() != nil {
			return g, info, err
		}
	}
}

var errExpired = errors.New("the challenge ran out before the broker answered")

// attempt is one challenge and the grant for it. It returns the HPKE info that the
// sealed box, if any, was made with.
func (s *session) attempt(ctx context.Context, purpose door.Purpose) (door.Grant, []byte, error) {
	req := door.ChallengeRequest{Workspace: s.line.Workspace, Generation: s.line.Generation, Purpose: purpose}
	var asked time.Time
	ch, err := retry(ctx, func() (door.Challenge, error) {
		asked = time.Now() // whatever the broker did for this, it did later
		return s.client.challenge(ctx, req)
	})
	if err != nil {
		return door.Grant{}, nil, err
	}
	if err := door.VerifyChallenge(s.line.KeyHash, req, ch); err != nil {
		return door.Grant{}, nil, err
	}
	expires, err := door.ParseTime(ch.ExpiresAt)
	if err != nil {
		return door.Grant{}, nil, err
	}
	data := door.ReportData(door.Binding{
		Challenge: ch.Challenge, Nonce: ch.Nonce, Workspace: req.Workspace, Generation: req.Generation, Purpose: purpose,
		KEM: s.hpke.Public().KEM, HPKEKey: s.hpke.Public().PublicKey, SigningKey: s.sign.Public().(ed25519.PublicKey), HeaderHash: s.headerHash,
	})
	evidence, err := s.reporter.Report(ctx, data)
	if err != nil {
		return door.Grant{}, nil, err
	}
	ask := door.GrantRequest{
		Challenge: ch.Challenge, Evidence: evidence, HPKE: s.hpke.Public(),
		SigningKey: s.sign.Public().(ed25519.PublicKey), HeaderHash: s.headerHash,
	}
	// The nonce is burnt by the first request that arrives. A lost answer is fetched by sending
	// the very same request again, for as long as the challenge lives.
	live, cancel := context.WithDeadline(ctx, asked.Add(door.ChallengeLife))
	defer cancel()
	g, err := retry(live, func() (door.Grant, error) { return s.client.grant(live, ask) })
	if err != nil && !isRefused(err) && live.Err() != nil {
		return door.Grant{}, nil, fmt.Errorf("%w: %w", errExpired, err)
	}
	if err != nil {
		return door.Grant{}, nil, err
	}
	if err := door.VerifyGrant(ch.BrokerKey, ch.Challenge, ch.Nonce, g); err != nil {
		return door.Grant{}, nil, err
	}
	until, err1 := door.ParseTime(g.Lease.Until)
	renew, err2 := door.ParseTime(g.Lease.RenewAfter)
	if err := errors.Join(err1, err2); err != nil {
		return door.Grant{}, nil, err
	}
	// The signed expiry of the nonce gives the broker's clock when it made the challenge, the only clock that the guest
	// believes. Its times are whole seconds, cut off: it was made up to a second later than it says.
	made := expires.Add(-door.ChallengeLife)
	latest := made.Add(time.Second)
	s.broker = ch.BrokerKey
	s.lease = lease{id: g.Lease.ID, until: asked.Add(until.Sub(latest)), renewAfter: asked.Add(renew.Sub(latest)), granted: made}
	return g, door.GrantInfo(g.Context, req, ch.Nonce), nil
}

// unlock obtains the first grant of this boot and opens its box.
func (s *session) unlock(ctx context.Context) (door.Sealed, error) {
	g, info, err := s.obtain(ctx, door.Unlock)
	if err != nil {
		return door.Sealed{}, err
	}
	return s.hpke.Open(info, g.Sealed)
}

// renew prolongs the lease. Only a refusal is final before the lease ends: whatever else
// goes wrong may be the network's doing.
func (s *session) renew(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, s.lease.until)
	defer cancel()
	_, err := retry(ctx, func() (door.Grant, error) {
		g, _, err := s.obtain(ctx, door.Renew)
		return g, err
	})
	return err
}

// report tells the broker a stage. What the broker does not answer in time is kept and sent before the
// next report, so that a short outage loses nothing and stops nothing.
func (s *session) report(ctx context.Context, stage door.Stage, detail string) {
	if s.lease.id == "" {
		return // nobody to tell yet
	}
	s.unsent = append(s.unsent, s.event(stage, "", detail))
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	s.flush(ctx)
}

const reportPatience = 10 * time.Second

func (s *session) flush(ctx context.Context) {
	for len(s.unsent) > 0 {
		e := s.unsent[0]
		_, err := retry(ctx, func() (door.EventAnswer, error) { return s.client.event(ctx, s.lease.id, e) })
		if err != nil && !isRefused(err) {
			return
		}
		s.unsent = s.unsent[1:] // a refused report will not be taken later either
	}
}

// confirm reports the header's hash and returns only when B has signed that it is recorded.
func (s *session) confirm(ctx context.Context, hash string) error {
	e := s.event(door.Formatted, hash, "")
	ctx, cancel := context.WithDeadline(ctx, s.lease.until)
	defer cancel()
	_, err := retry(ctx, func() (door.EventAnswer, error) {
		a, err := s.client.event(ctx, s.lease.id, e)
		if err != nil {
			return a, err
		}
		return a, door.VerifyAck(s.broker, s.lease.id, e, a)
	})
	return err
}

func (s *session) event(stage door.Stage, hash, detail string) door.Event {
	s.seq++
	e := door.Event{Seq: s.seq, Stage: stage, HeaderHash: hash, Detail: printable(detail)}
	door.SignEvent(s.sign, s.lease.id, &e)
	return e
}

// printable bounds what this guest says about itself: one line of ASCII.
func printable(s string) string {
	const most = 500
	out := make([]byte, 0, min(len(s), most))
	for _, r := range s {
		if len(out) == most {
			break
		}
		if r < 0x20 || r > 0x7e {
			r = '?'
		}
		out = append(out, byte(r))
	}
	return string(out)
}

// retry repeats until success, a refusal, or ctx's end.
func retry[T any](ctx context.Context, try func() (T, error)) (T, error) {
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		v, err := try()
		if err == nil || isRefused(err) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(wait):
		}
	}
}
