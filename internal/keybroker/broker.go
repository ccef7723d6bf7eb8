package keybroker

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/ear"
	"github.com/eosc-siesta/siestad/internal/permit"
)

// Facts is the human side of a release. It queues the statements that read the facts and lock what they read against
// change until the transaction ends in which the batch is sent. set holds nothing until the batch has been read.
type Facts interface {
	QueueFacts(batch *pgx.Batch, q permit.FactQuery, set *permit.FactSet)
}

// Verifier judges evidence; *attest.Verifier is the one of production.
type Verifier interface {
	Verify(ev attest.Evidence, col attest.Collateral, pol attest.Policy, at time.Time) (*attest.Result, error)
}

// Log is what the broker needs of the audit log.
type Log interface {
	// Append and Queue record an entry in a transaction of the broker's.
	Append(ctx context.Context, tx pgx.Tx, e audit.Entry) (audit.ID, error)
	Queue(batch *pgx.Batch, e audit.Entry) (audit.Ref, error)
	// Wait returns once that entry stands under a durable signed checkpoint; WaitID once some entry of this id does, with
	// what it says.
	Wait(ctx context.Context, of audit.Ref) (audit.Receipt, error)
	WaitID(ctx context.Context, id audit.ID) (audit.Receipt, []byte, error)
	// Refuse appends an entry that has no rows of its own, and waits for it.
	Refuse(ctx context.Context, e audit.Entry) (audit.Receipt, error)
}

// Stores gives the key store of a site.
type Stores interface {
	Store(site string) (KeyStore, error)
}

// KeyStore keeps wrapped keys at a site. It is believed in nothing: what it returns is compared with a recorded hash.
// Every call may be repeated, and may have taken effect although it returned an error.
type KeyStore interface {
	// EnsureSecret finds the secret of this exact name or makes it, without a payload.
	EnsureSecret(ctx context.Context, name string) (id string, err error)
	// PutPayload writes the payload once; ErrHasPayload if there is one.
	PutPayload(ctx context.Context, id string, blob []byte) error
	// GetPayload returns the payload; ErrNoPayload if there is none, or no such secret.
	GetPayload(ctx context.Context, id string) ([]byte, error)
	// DeleteSecret removes the secret; absence is success.
	DeleteSecret(ctx context.Context, id string) error
}

// Errors that callers branch on.
var (
	ErrHasPayload = errors.New("secret already has a payload")
	ErrNoPayload  = errors.New("secret has no payload")
	// ErrNotFound: the broker does not know this workspace, generation or lease.
	ErrNotFound = errors.New("unknown to the broker")
	// ErrState: the workspace's guest is not in a state that allows this.
	ErrState = errors.New("not possible in this state")
	// ErrDocuments: what people have put into force for the site and the project leaves no evidence that would be accepted.
	ErrDocuments = errors.New("the policy documents in force admit no guest of this workspace")
	// ErrShredded: the workspace's key has been destroyed, or is being.
	ErrShredded = errors.New("key is shredded")
	// ErrBusy: the same request is being answered, or a party needed for the answer is away. Asking again is right.
	ErrBusy = errors.New("try again")
	// ErrExists: there is one of that name already.
	ErrExists = errors.New("there is one already")
	// ErrInvalid: what was asked for cannot be.
	ErrInvalid = errors.New("not valid")
	// ErrNoSecret: no secret of this path is there for this guest.
	ErrNoSecret = errors.New("no such secret")
	// ErrNoSession: the session is unknown, expired, or has proved nothing. A new handshake helps.
	ErrNoSession = errors.New("no attested session")
	// ErrNoTokens: this broker has no key to sign attestation results with.
	ErrNoTokens = errors.New("no token key is configured")
	// ErrRootInUse: an epoch root cannot be destroyed while a living key is wrapped under it.
	ErrRootInUse = errors.New("living keys are wrapped under this root")
)

// Collection is what a process that runs a broker gives to runtime/debug: the heap may grow to five times of what lives in
// it before it is collected, for as long as it stays below CollectionLimit bytes. A broker's heap is small but for the
// tables of hot chips, and whatever a release allocates is dead when it has been answered: at Go's own 100 per cent the
// collector takes a twelfth of a release.
const (
	Collection      = 400
	CollectionLimit = 512 << 20
)

// Config is everything a Broker needs. All fields without a stated default must be set.
type Config struct {
	DB       *pgxpool.Pool
	Log      Log
	Facts    Facts
	Stores   Stores
	Keyring  Keyring
	Verifier Verifier
	// Collateral is what is known beforehand about the hardware that evidence speaks for. It must answer from memory: what is
	// not at hand refuses the release.
	Collateral func(ctx context.Context, q CollateralQuery) (attest.Collateral, error)
	// Tokens signs attestation results. Nil: /kbs/v0 and attestations are refused.
	Tokens *ear.Signer
	// Key is B: its public half is hashed into every guest's command line.
	Key ed25519.PrivateKey
	// Installation is the 8-character id that enters every wrapped key.
	Installation string
	Logger       *zap.Logger

	// Lease is how long a guest may hold a key without renewing; half of it is left when it is told to. Default 5 minutes.
	Lease time.Duration
	// InitialiseLease is the lease of a guest that formats. It is short, so that a power cut then costs little. Default 2 minutes, or Lease if that is shorter.
	InitialiseLease time.Duration
	// Now is the clock by which certificates are judged. Default time.Now.
	Now func() time.Time
	// Host names the machine of a chip, so that machines can be frozen. Without it no machine has a name.
	Host HostOf
	// Policies narrow what guests are armed with. Without them what a workspace asks for is what is armed, and a security
	// floor that is in force refuses everything.
	Policies Policies
}

// Broker is the key broker. Make it with New; run Run beside it.
type Broker struct {
	Config
	challengeKey []byte
	policies     *bounded[[32]byte, attest.Policy]
	raises       *bounded[raisedKey, raised]
	blobs        *bounded[blobKey, []byte]
	stored       *bounded[[32]byte, bool] // digests known to be in broker_blob
	fetches      singleflight.Group
	held         *bounded[collateralKey, heldCollateral]
	limits       *limits
	line         *line
	aggregate    *aggregate

	opened atomic.Uint64 // sessions that were made; see clearEvery
	swept  time.Time     // broker_swept as the last sweep left it; of the one goroutine of Run
}

type blobKey struct {
	workspace string
	epoch     int
}

const (
	minLease          = 10 * time.Second // a guest rounds to seconds, and asks again after one
	storeTimeout      = 10 * time.Second
	checkpointTimeout = 15 * time.Second
	janitorInterval   = time.Minute
	lastFlush         = 5 * time.Second
)

var installationPattern = regexp.MustCompile(`^[a-z0-9]{8}$`)

// New checks the configuration; it does no I/O.
func New(c Config) (*Broker, error) {
	if c.Lease == 0 {
		c.Lease = 5 * time.Minute
	}
	if c.InitialiseLease == 0 {
		c.InitialiseLease = min(2*time.Minute, c.Lease)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.DB == nil, c.Log == nil, c.Facts == nil, c.Stores == nil, c.Keyring == nil, c.Verifier == nil, c.Collateral == nil, c.Logger == nil:
		return nil, errors.New("making the key broker: a part is missing")
	case len(c.Key) != ed25519.PrivateKeySize:
		return nil, errors.New("making the key broker: no broker key")
	case !installationPattern.MatchString(c.Installation):
		return nil, errors.New("making the key broker: the installation id is not 8 characters of a-z and 0-9")
	case c.Lease < minLease || c.InitialiseLease < minLease:
		return nil, errors.New("making the key broker: a duration is out of range")
	}
	challengeKey, err := hkdf.Key(sha256.New, c.Key.Seed(), nil, challengeLabel, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("making the key broker: %w", err)
	}
	return &Broker{
		Config:       c,
		challengeKey: challengeKey,
		policies:     newBounded[[32]byte, attest.Policy](4096),
		raises:       newBounded[raisedKey, raised](4096),
		blobs:        newBounded[blobKey, []byte](16384),
		stored:       newBounded[[32]byte, bool](16384),
		held:         newBounded[collateralKey, heldCollateral](4096),
		limits:       newLimits(c.Now),
		line:         newLine(),
		aggregate:    newAggregate(),
	}, nil
}

// Run sweeps what has expired and writes the aggregated refusals, until ctx ends, and these once more then. Whoever runs it
// takes no more requests by that time, and stops the audit log later.
func (b *Broker) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		tick := time.NewTicker(janitorInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
				defer cancel()
				if err := b.flush(last); err != nil {
					b.Logger.Warn("stopping the key broker", zap.Error(err))
				}
				return nil
			case <-tick.C:
				if err := b.sweep(ctx); err != nil && ctx.Err() == nil {
					b.Logger.Warn("sweeping the key broker", zap.Error(err))
				}
				tick.Reset(janitorInterval) // from the end of this pass, however long it took: see clearOld
			}
		}
	})
	return g.Wait()
}

// flush writes the aggregated refusals. A crash loses those since the last time: a count of anonymous refusals, nothing else.
func (b *Broker) flush(ctx context.Context) error {
	e, ok := b.aggregate.entry()
	if !ok {
		return nil
	}
	if _, err := b.Log.Refuse(ctx, e); err != nil {
		b.aggregate.restore(e)
		return fmt.Errorf("writing aggregated refusals: %w", err)
	}
	return nil
}

// sweep is one pass of Run. The log comes last: one that stalls must not keep what strangers left from being cleared away.
func (b *Broker) sweep(ctx context.Context) error {
	return errors.Join(b.clearOld(ctx), b.clearIdle(ctx), b.sweepSecrets(ctx), b.flush(ctx))
}

// clearOld deletes challenges and sessions that have run out.
func (b *Broker) clearOld(ctx context.Context) error {
	// A row says that its challenge is used, and broker_swept that all are whose rows are gone, or go with the next sweep: a
	// database whose clock was ahead, and is set back, takes none of them again. It is raised to what goes, not to now, so that
	// a clock that jumps ahead for a moment does not have challenges refused that nobody used. What was granted is kept for a
	// day, for answers that were lost.
	//
	// What goes is what broker_swept stood for when the sweep before this one ended: a statement that uses a challenge and
	// began before it was raised does not see that, and has a minute in which it finds the row.
	const old = ` FROM broker_challenge WHERE expires_at < now() - interval '1 minute'
		AND (outcome IS DISTINCT FROM 'granted' OR expires_at < now() - interval '1 day')`
	if err := b.DB.QueryRow(ctx, `WITH gone AS (DELETE`+old+` AND expires_at <= $1),
		raised AS (UPDATE broker_swept s SET until = g.until FROM (SELECT max(expires_at) AS until`+old+`) g WHERE g.until > s.until RETURNING s.until)
		SELECT greatest(until, (SELECT until FROM raised)) FROM broker_swept`, b.swept).Scan(&b.swept); err != nil {
		return fmt.Errorf("deleting old challenges: %w", err)
	}
	if _, err := b.DB.Exec(ctx, `DELETE FROM broker_kbs_session WHERE expires_at < now() - interval '1 hour'
		OR expires_at < now() - interval '1 minute' AND attested_at IS NULL`); err != nil {
		return fmt.Errorf("deleting old sessions: %w", err)
	}
	return nil
}

// bounded is a map that forgets an arbitrary entry when it is full: what it holds can always be read again.
type bounded[K comparable, V any] struct {
	mu  sync.Mutex
	max int
	m   map[K]V
}

func newBounded[K comparable, V any](limit int) *bounded[K, V] {
	return &bounded[K, V]{max: limit, m: make(map[K]V)}
}

func (b *bounded[K, V]) get(k K) (V, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.m[k]
	return v, ok
}

func (b *bounded[K, V]) put(k K, v V) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.m[k]; !ok && len(b.m) >= b.max {
		for old := range b.m {
			delete(b.m, old)
			break
		}
	}
	b.m[k] = v
}

func (b *bounded[K, V]) drop(match func(K) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.m {
		if match(k) {
			delete(b.m, k)
		}
	}
}
