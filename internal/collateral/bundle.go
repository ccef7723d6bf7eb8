package collateral

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

const (
	maxBundle        = 64 << 20
	maxBundleObjects = 16384
	bundleVersion    = 1
)

// bundle is collateral in a file, for sites without a way to the vendors.
type bundle struct {
	Version int            `json:"version"`
	Objects []bundleObject `json:"objects"`
}

// bundleObject carries the issuer chain (PEM) where the object is proved by one, and says of a list of AMD's whether it is the
// one of providers' keys.
type bundleObject struct {
	Object attest.Object `json:"object"`
	Chain  string        `json:"chain,omitempty"`
	VLEK   bool          `json:"vlek,omitempty"`
}

// Import stores the objects of a bundle, all of them or, if one is not what it claims or not in force, none.
func (s *Service) Import(ctx context.Context, file io.Reader, by audit.Actor) (int, error) {
	data, err := io.ReadAll(io.LimitReader(file, maxBundle+1))
	if err != nil {
		return 0, fmt.Errorf("reading bundle: %w", err)
	}
	if len(data) > maxBundle {
		return 0, fmt.Errorf("reading bundle: more than %d bytes", maxBundle)
	}
	var b bundle
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		return 0, fmt.Errorf("reading bundle: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) || b.Version != bundleVersion || len(b.Objects) == 0 || len(b.Objects) > maxBundleObjects {
		return 0, fmt.Errorf("reading bundle: not one bundle of version %d with 1 to %d objects", bundleVersion, maxBundleObjects)
	}
	now := s.Now()
	batch := &pgx.Batch{}
	for i, o := range b.Objects {
		p, err := s.prove(Found{o.Object, []byte(o.Chain), o.VLEK}, now)
		if err != nil {
			return 0, fmt.Errorf("object %d of the bundle: %w", i, err)
		}
		queueStore(batch, p, "import", now)
	}
	err = postgres.InTx(ctx, s.DB, func(tx pgx.Tx) error {
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		digest := attest.Object{Bytes: data}.Digest()
		_, err := s.Audit.Append(ctx, tx, audit.Entry{
			Actor: by, Action: "collateral.import", Object: "bundle/" + digest.String(), Outcome: audit.Success,
			Details: map[string]any{"objects": len(b.Objects)},
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("storing a bundle: %w", err)
	}
	return len(b.Objects), s.reload(ctx)
}

// Export writes what is current as a bundle that Import reads.
func (s *Service) Export(ctx context.Context, to io.Writer) error {
	objects, err := s.read(ctx)
	if err != nil {
		return err
	}
	b := bundle{Version: bundleVersion, Objects: []bundleObject{}}
	for _, o := range objects {
		if o.covers(s.Now()) {
			b.Objects = append(b.Objects, bundleObject{attest.Object{Kind: o.Kind, Bytes: o.body}, string(o.chain), isVLEKs(o.Subject)})
		}
	}
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(b); err != nil {
		return fmt.Errorf("writing bundle: %w", err)
	}
	return nil
}

// Item is one line of what is kept.
type Item struct {
	attest.Statement
	Digest attest.Digest
	State  State
}

// List says what is current and in which state it is.
func (s *Service) List(ctx context.Context) ([]Item, error) {
	objects, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	now := s.Now()
	out := make([]Item, 0, len(objects))
	for _, o := range objects {
		out = append(out, Item{o.Statement, o.digest, s.stateOf(o, now)})
	}
	return out, nil
}

func (s *Service) stateOf(o kept, now time.Time) State {
	switch {
	case o.covers(now):
		return Fresh
	case o.Kind == attest.KindAMDCRL && !now.Before(o.From) && now.Before(o.Until.Add(s.Grace)):
		return Stale
	}
	return Expired
}
