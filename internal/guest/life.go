package guest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
)

// Volume is the data volume. A Volume that returned an error from Initialise or Open is closed.
type Volume interface {
	// Initialise formats the disk that the grant names and returns the hash of its header.
	Initialise(ctx context.Context, s door.Sealed) (hash string, err error)
	// Open opens the disk that the grant names, if its header is the one the grant expects.
	Open(ctx context.Context, s door.Sealed) (hash string, err error)
	// Mount makes the opened volume usable and says, for people, what it found.
	Mount(b Boot) (detail string, err error)
	// Close flushes and takes the key away. Closing what is not open succeeds.
	Close(ctx context.Context) error
}

// Boot is one line of the volume's own journal.
type Boot struct {
	Generation int
	At         time.Time // by the broker's clock
}

// Config is what Run needs.
type Config struct {
	Line      Line
	Reporter  Reporter
	Volume    Volume
	Button    <-chan struct{}   // receives when the power button is pressed; nil: no button
	Transport http.RoundTripper // nil: the network
	Print     func(format string, args ...any)
}

// How long a guest waits for a broker that does not answer at all before it gives the
// machine back, and for its own end.
const (
	bootPatience = 15 * time.Minute
	stopPatience = 5 * time.Second
)

// Stop is why an orderly end came. Everything else is a failure.
var (
	ErrButton  = errors.New("the power button was pressed")
	errStopped = errors.New("the guest is told to stop")
)

// Run lives one boot. When it returns, the volume is closed and the broker has been told, as
// far as that was possible; the caller powers the machine off.
func Run(ctx context.Context, c Config) error {
	client := newClient(c.Line.Broker)
	if c.Transport != nil {
		client.http.Transport = c.Transport
	}
	s, err := newSession(c.Line, client, c.Reporter)
	if err != nil {
		return err
	}
	alive, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-c.Button:
			cancel(ErrButton)
		case <-alive.Done():
		}
	}()
	why := c.live(alive, s)
	if alive.Err() != nil { // whatever failed, failed because of the end
		why = context.Cause(alive)
		if errors.Is(why, context.Canceled) {
			why = errStopped
		}
	}
	// The end has its own time: ctx may be over.
	end, done := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer done()
	stage := door.Failed
	if errors.Is(why, ErrButton) || errors.Is(why, errStopped) {
		stage = door.Stopping
	}
	// The volume is closed before anybody is told: nothing on the network can delay it.
	closing := c.Volume.Close(context.WithoutCancel(ctx))
	s.report(end, stage, errors.Join(why, closing).Error())
	return errors.Join(why, closing)
}

// live never returns nil.
func (c Config) live(ctx context.Context, s *session) error {
	c.Print("workspace %s, generation %d; reports by %s", c.Line.Workspace, c.Line.Generation, c.Reporter)
	if err := c.unlock(ctx, s); err != nil {
		return err
	}
	s.report(ctx, door.Unlocked, "")
	c.Print("the data volume is unlocked")
	detail, err := c.Volume.Mount(Boot{Generation: c.Line.Generation, At: s.lease.granted})
	if err != nil {
		return err
	}
	s.report(ctx, door.Ready, detail)
	c.Print("ready: %s", detail)
	return c.hold(ctx, s)
}

func (c Config) unlock(ctx context.Context, s *session) error {
	boot, cancel := context.WithTimeout(ctx, bootPatience)
	sealed, err := s.unlock(boot)
	cancel()
	if err != nil {
		return err
	}
	defer sealed.LUKSKey.Clear()
	defer sealed.HeaderMACKey.Clear()
	c.Print("attested; the grant says %s", sealed.Mode)
	// No step on the disk outlives the lease that allows it.
	ctx, cancel = context.WithDeadline(ctx, s.lease.until)
	defer cancel()
	switch sealed.Mode {
	case door.Initialise:
		c.Print("formatting the data volume")
		if s.headerHash, err = c.Volume.Initialise(ctx, sealed); err != nil {
			return err
		}
		c.Print("formatted; waiting for the broker to record the header")
		// A crash before the answer: the broker still says initialise, or has the hash
		// and says open. Both find a disk that fits, because nothing was written since.
		if err := s.confirm(ctx, s.headerHash); err != nil {
			return fmt.Errorf("the broker has not recorded the new header: %w", err)
		}
	case door.Open:
		if s.headerHash, err = c.Volume.Open(ctx, sealed); err != nil {
			return err
		}
	default:
		return fmt.Errorf("the grant says %s, which this guest cannot do", sealed.Mode)
	}
	return nil
}

// hold keeps the lease until it cannot.
func (c Config) hold(ctx context.Context, s *session) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(s.lease.renewAfter)):
		}
		if err := s.renew(ctx); err != nil {
			return fmt.Errorf("the lease is not renewed: %w", err)
		}
		s.flush(ctx)
		// A broker that says "renew at once" must not make a busy loop.
		if soonest := time.Now().Add(time.Second); s.lease.renewAfter.Before(soonest) {
			s.lease.renewAfter = soonest
		}
	}
}
