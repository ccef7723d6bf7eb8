package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/guest/guesttest"
)

// memory is a volume without a disk: it remembers what was done, in order.
type memory struct {
	did    []string
	header string // what is "on the disk"
	fail   error
}

func (m *memory) Initialise(_ context.Context, s door.Sealed) (string, error) {
	m.did = append(m.did, "initialise "+s.VolumeSerial)
	m.header = fmt.Sprintf("%064x", len(m.did))
	return m.header, m.fail
}

func (m *memory) Open(_ context.Context, s door.Sealed) (string, error) {
	m.did = append(m.did, "open "+s.VolumeSerial)
	if s.HeaderHash != m.header {
		return "", errors.New("another header")
	}
	return m.header, m.fail
}

func (m *memory) Mount(b Boot) (string, error) {
	m.did = append(m.did, "mount")
	return fmt.Sprintf("boot of generation %d", b.Generation), nil
}

func (m *memory) Close(context.Context) error {
	m.did = append(m.did, "close")
	return nil
}

// wire calls the broker without a network, so that time in a test is the bubble's own.
type wire struct{ h http.Handler }

func (w wire) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if recover() != nil { // http.ErrAbortHandler
			resp, err = nil, io.ErrUnexpectedEOF
		}
	}()
	rec := httptest.NewRecorder()
	w.h.ServeHTTP(rec, r)
	return rec.Result(), nil
}

type life struct {
	broker *guesttest.Broker
	volume *memory
	button chan struct{}
	said   bytes.Buffer
	line   Line
}

func newLife() *life {
	b := guesttest.New("serial")
	return &life{broker: b, volume: &memory{}, button: make(chan struct{}, 1), line: Line{Workspace: "01jqqqqqqqqqqqqqqqqqqqqqqq", Generation: 1, Broker: "http://broker", KeyHash: b.KeyHash()}}
}

func (l *life) run(ctx context.Context) error {
	return Run(ctx, Config{
		Line: l.line, Reporter: guesttest.Processor{}, Volume: l.volume, Button: l.button, Transport: wire{l.broker},
		Print: func(format string, args ...any) { fmt.Fprintf(&l.said, format+"\n", args...) },
	})
}

// after presses the button once the guest has had this long.
func (l *life) after(d time.Duration) {
	go func() {
		time.Sleep(d)
		l.button <- struct{}{}
	}()
}

func (l *life) stages() []door.Stage {
	var out []door.Stage
	for _, e := range l.broker.Events() {
		out = append(out, e.Stage)
	}
	return out
}

func (l *life) expect(t *testing.T, did []string, stages ...door.Stage) {
	t.Helper()
	if !slices.Equal(l.volume.did, did) {
		t.Errorf("the volume saw %q, want %q", l.volume.did, did)
	}
	if got := l.stages(); !slices.Equal(got, stages) {
		t.Errorf("the broker heard %q, want %q", got, stages)
	}
	for _, secret := range []door.Secret{l.broker.Volume.LUKSKey, l.broker.Volume.HeaderMACKey} {
		if bytes.Contains(l.said.Bytes(), secret[:8]) {
			t.Error("a key was printed")
		}
	}
}

func TestLifeInitialiseThenOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife()
		l.after(time.Minute)
		if err := l.run(t.Context()); !errors.Is(err, ErrButton) {
			t.Error(err)
		}
		first := []string{"initialise serial", "mount", "close"}
		l.expect(t, first, door.Formatted, door.Unlocked, door.Ready, door.Stopping)
		l.after(time.Minute)
		if err := l.run(t.Context()); !errors.Is(err, ErrButton) {
			t.Error(err)
		}
		l.expect(t, append(first, "open serial", "mount", "close"),
			door.Formatted, door.Unlocked, door.Ready, door.Stopping, door.Unlocked, door.Ready, door.Stopping)
	})
}

func TestLifeRenewsWithTheSameKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife() // its broker refuses a renewal by another signing key or for another header
		l.after(5*time.Hour + time.Minute)
		if err := l.run(t.Context()); !errors.Is(err, ErrButton) {
			t.Error(err)
		}
		if n := l.broker.Grants(); n != 11 { // half an hour each
			t.Errorf("%d grants in five hours, want 11", n)
		}
	})
}

func TestLifeEndsWhenARenewalIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife()
		l.broker.Intercept = func(_ string, body []byte) (int, bool) {
			if bytes.Contains(body, []byte(`"renew"`)) {
				return http.StatusForbidden, false
			}
			return 0, false
		}
		start := time.Now()
		err := l.run(t.Context())
		if !isRefused(err) || time.Since(start) > 31*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		l.expect(t, []string{"initialise serial", "mount", "close"}, door.Formatted, door.Unlocked, door.Ready, door.Failed)
	})
}

func TestLifeEndsWithTheLeaseWhenNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife()
		start := time.Now()
		l.broker.Intercept = func(string, []byte) (int, bool) {
			if time.Since(start) > time.Minute {
				return http.StatusBadGateway, false
			}
			return 0, false
		}
		err := l.run(t.Context())
		if took := time.Since(start); err == nil || took < 59*time.Minute || took > 61*time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
		if last := l.volume.did[len(l.volume.did)-1]; last != "close" {
			t.Errorf("the last thing done to the volume is %q", last)
		}
	})
}

// slow loses time between the broker and the guest: answers are old when they arrive, and so are reports.
type slow struct {
	http.RoundTripper
	guesttest.Processor
	challenge, report time.Duration
}

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(r)
	if strings.HasSuffix(r.URL.Path, "/challenges") {
		select {
		case <-time.After(s.challenge):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return resp, err
}

func (s slow) Report(ctx context.Context, data [64]byte) (door.Evidence, error) {
	time.Sleep(s.report)
	return s.Processor.Report(ctx, data)
}

// However late the broker's answers come, and wherever in a second its clock stands, the guest has closed its disk when
// the broker gives the volume to somebody else.
func TestLifeEndsNoLaterThanTheLease(t *testing.T) {
	for name, c := range map[string]struct{ offset, challenge, report time.Duration }{
		"prompt":                           {},
		"an answer that is late":           {challenge: 15 * time.Second},
		"times that are cut to a second":   {offset: 950 * time.Millisecond, report: 100 * time.Millisecond},
		"both, and a processor that waits": {offset: 500 * time.Millisecond, challenge: 9800 * time.Millisecond, report: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife()
				time.Sleep(c.offset)
				var granted time.Time
				l.broker.Intercept = func(path string, _ []byte) (int, bool) {
					switch {
					case path != "/v1/grants" && path != "/v1/challenges":
					case granted.IsZero():
						if path == "/v1/grants" {
							granted = time.Now()
						}
					default:
						return http.StatusBadGateway, false
					}
					return 0, false
				}
				link := slow{RoundTripper: wire{l.broker}, challenge: c.challenge, report: c.report}
				err := Run(t.Context(), Config{
					Line: l.line, Reporter: link, Volume: l.volume, Transport: link, Print: func(string, ...any) {},
				})
				left := time.Until(granted.Add(l.broker.Lease))
				if err == nil || left < 0 || left > c.challenge+c.report+2*time.Second {
					t.Errorf("the guest ended %v before its lease: %v", left, err)
				}
			})
		})
	}
}

func TestLifeSurvivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife()
		start := time.Now()
		l.broker.Intercept = func(string, []byte) (int, bool) {
			if d := time.Since(start); d < 5*time.Minute || d > 25*time.Minute && d < 45*time.Minute {
				return http.StatusServiceUnavailable, false
			}
			return 0, false
		}
		l.after(50 * time.Minute)
		if err := l.run(t.Context()); !errors.Is(err, ErrButton) {
			t.Error(err)
		}
		l.expect(t, []string{"initialise serial", "mount", "close"}, door.Formatted, door.Unlocked, door.Ready, door.Stopping)
	})
}

func TestLifeAsksAgainWithTheSameRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife()
		lost := map[string]int{}
		l.broker.Intercept = func(path string, _ []byte) (int, bool) {
			lost[path]++
			return 0, lost[path] <= 3 // every first three answers are lost, whatever they were
		}
		l.after(10 * time.Minute)
		if err := l.run(t.Context()); !errors.Is(err, ErrButton) {
			t.Error(err)
		}
		if n := l.broker.Grants(); n != 1 {
			t.Errorf("%d grants, want 1", n)
		}
	})
}

func TestLifeRefuses(t *testing.T) {
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(*life)
		did   []string
		why   string
	}{
		"another broker key": {func(l *life) { l.line.KeyHash = door.KeyHash(other.Public().(ed25519.PublicKey)) }, []string{"close"}, "not the broker key"},
		"a forged grant":     {func(l *life) { l.broker.Forge = other }, []string{"close"}, "verifying the grant"},
		"rekey": {func(l *life) {
			l.broker.Volume.Mode, l.broker.Volume.HeaderHash = door.Rekey, strings.Repeat("0", 64)
		}, []string{"close"}, "cannot do"},
		"a disk that is not formatted": {func(l *life) {
			l.broker.Volume.Mode, l.broker.Volume.HeaderHash = door.Open, strings.Repeat("0", 64)
		}, []string{"open serial", "close"}, "another header"},
		"a failing disk": {func(l *life) { l.volume.fail = errors.New("input/output error") }, []string{"initialise serial", "close"}, "input/output"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife()
				c.spoil(l)
				err := l.run(t.Context())
				if err == nil || !strings.Contains(err.Error(), c.why) {
					t.Errorf("got %v, want %q", err, c.why)
				}
				if !slices.Equal(l.volume.did, c.did) {
					t.Errorf("the volume saw %q, want %q", l.volume.did, c.did)
				}
			})
		})
	}
}

// The broker recorded nothing it signed for: the guest waits, and writes nothing.
func TestLifeWaitsForTheSignedRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife()
		l.broker.Intercept = func(path string, _ []byte) (int, bool) {
			if strings.HasSuffix(path, "/events") {
				return http.StatusServiceUnavailable, false
			}
			return 0, false
		}
		if err := l.run(t.Context()); err == nil {
			t.Error("no error")
		}
		l.expect(t, []string{"initialise serial", "close"})
	})
}

func TestLifeGivesUpOnABrokerThatNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife()
		l.broker.Intercept = func(string, []byte) (int, bool) { return http.StatusServiceUnavailable, false }
		start := time.Now()
		if err := l.run(t.Context()); err == nil || time.Since(start) > bootPatience+time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestPrintable(t *testing.T) {
	if got := printable("a\nb\x1b[2Jé" + strings.Repeat("x", 1000)); strings.ContainsAny(got, "\n\x1bé") || len(got) != 500 {
		t.Errorf("%q", got)
	}
}
