package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
)

func (h *handlers) ListAuditEntries(ctx context.Context, r gen.ListAuditEntriesRequestObject) (gen.ListAuditEntriesResponseObject, error) {
	if err := h.allow(ctx, "audit.read", "", authz.Object{Kind: "audit"}, ""); err != nil {
		return nil, err
	}
	p := r.Params
	f := audit.Filter{Action: pointer(p.Action), Object: pointer(p.Object), Project: pointer(p.Project), Outcome: audit.Outcome(pointer(p.Outcome))}
	var since, until string
	if p.Since != nil {
		f.Since, since = *p.Since, p.Since.UTC().String()
	}
	if p.Until != nil {
		f.Until, until = *p.Until, p.Until.UTC().String()
	}
	page := h.pager(ctx, p.Limit, "audit", f.Action, f.Object, f.Project, string(f.Outcome), since, until)
	after, err := page.after(p.Cursor)
	if err != nil {
		return nil, err
	}
	if after != "" {
		before, err := strconv.ParseInt(after, 10, 64)
		if err != nil {
			return nil, kindCursor.because("The cursor is not one of this service.")
		}
		f.Before = &before
	}
	f.Limit = page.limit + 1
	list, err := h.cfg.Log.List(ctx, f)
	if err != nil {
		return nil, err
	}
	items, next := cut(page, list, func(r audit.Record) string { return strconv.FormatInt(r.Index, 10) }, entryView)
	return gen.ListAuditEntries200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetAuditEntry(ctx context.Context, r gen.GetAuditEntryRequestObject) (gen.GetAuditEntryResponseObject, error) {
	if err := h.allow(ctx, "audit.read", "", authz.Object{Kind: "audit"}, ""); err != nil {
		return nil, err
	}
	record, err := h.cfg.Log.Get(ctx, r.Index)
	if err != nil {
		return nil, outside(err)
	}
	return gen.GetAuditEntry200JSONResponse(entryView(record)), nil
}

func (h *handlers) GetAuditReceipt(ctx context.Context, r gen.GetAuditReceiptRequestObject) (gen.GetAuditReceiptResponseObject, error) {
	if err := h.allow(ctx, "audit.proof", "", authz.Object{Kind: "audit"}, ""); err != nil {
		return nil, err
	}
	receipt, err := h.cfg.Log.Receipt(ctx, r.Index)
	if err != nil {
		return nil, outside(err)
	}
	return gen.GetAuditReceipt200TextResponse(receipt.Proof), nil
}

func (h *handlers) GetCheckpoint(ctx context.Context, _ gen.GetCheckpointRequestObject) (gen.GetCheckpointResponseObject, error) {
	if err := h.allow(ctx, "audit.proof", "", authz.Object{Kind: "audit"}, ""); err != nil {
		return nil, err
	}
	checkpoint, err := h.cfg.Log.Checkpoint(ctx)
	if err != nil {
		return nil, outside(err)
	}
	return gen.GetCheckpoint200TextResponse(checkpoint), nil
}

func (h *handlers) GetInclusionProof(ctx context.Context, r gen.GetInclusionProofRequestObject) (gen.GetInclusionProofResponseObject, error) {
	if err := h.allow(ctx, "audit.proof", "", authz.Object{Kind: "audit"}, ""); err != nil {
		return nil, err
	}
	size, err := h.size(ctx, r.Params.Size)
	if err != nil {
		return nil, err
	}
	proof, err := h.cfg.Log.Inclusion(ctx, r.Params.Index, size)
	if err != nil {
		return nil, outside(err)
	}
	record, err := h.cfg.Log.Get(ctx, r.Params.Index)
	if err != nil {
		return nil, outside(err)
	}
	return gen.GetInclusionProof200JSONResponse{
		Index: r.Params.Index, Size: size, LeafHash: base64.StdEncoding.EncodeToString(record.LeafHash[:]), Hashes: hashViews(proof),
	}, nil
}

func (h *handlers) GetConsistencyProof(ctx context.Context, r gen.GetConsistencyProofRequestObject) (gen.GetConsistencyProofResponseObject, error) {
	if err := h.allow(ctx, "audit.proof", "", authz.Object{Kind: "audit"}, ""); err != nil {
		return nil, err
	}
	size, err := h.size(ctx, r.Params.New)
	if err != nil {
		return nil, err
	}
	proof, err := h.cfg.Log.Consistency(ctx, r.Params.Old, size)
	if err != nil {
		return nil, outside(err)
	}
	return gen.GetConsistencyProof200JSONResponse{Old: r.Params.Old, New: size, Hashes: hashViews(proof)}, nil
}

// exportAnswer writes an export.
type exportAnswer func(w http.ResponseWriter) error

func (f exportAnswer) VisitExportAuditResponse(w http.ResponseWriter) error { return f(w) }

// ExportAudit streams.
func (h *handlers) ExportAudit(ctx context.Context, _ gen.ExportAuditRequestObject) (gen.ExportAuditResponseObject, error) {
	if err := h.allow(ctx, "audit.read", "", authz.Object{Kind: "audit"}, ""); err != nil {
		return nil, err
	}
	return exportAnswer(func(w http.ResponseWriter) error {
		c := callOf(ctx)
		release, err := h.exports.take(c.who.Subject)
		if err != nil {
			return err
		}
		defer release()
		long, cancel := c.longer(ctx, exportIn)
		defer cancel()
		out := &patientWriter{ResponseWriter: w, call: c}
		w.Header().Set("Content-Type", "application/x-ndjson")
		err = h.cfg.Log.Export(long, out)
		if err != nil && out.begun {
			// The status has gone out. Only a connection that breaks still says that this is not the whole log; the end line,
			// which siesta-verify looks for, is missing as well.
			h.cfg.Logger.Warn("export broken off", zap.String("request", c.id), zap.Error(err))
			panic(http.ErrAbortHandler)
		}
		return err
	}), nil
}

// tiles serves the log in the C2SP layout. Hashes are for everybody with a role; entry bundles hold the entries.
func (s *Server) tiles(w http.ResponseWriter, r *http.Request) {
	op := authz.Operation("audit.proof")
	if strings.HasPrefix(r.URL.Path, "/v1/audit/log/tile/entries/") {
		op = "audit.read"
	}
	if err := s.allow(r.Context(), op, "", authz.Object{Kind: "audit"}, ""); err != nil {
		s.fail(w, r, err)
		return
	}
	http.StripPrefix("/v1/audit/log", plain{s.cfg.Log.Tiles(), s}).ServeHTTP(w, r)
}

// plain turns the errors of a handler that knows nothing of problems into problems.
type plain struct {
	next   http.Handler
	server *Server
}

func (p plain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.next.ServeHTTP(&plainWriter{ResponseWriter: w, server: p.server, request: r}, r)
}

type plainWriter struct {
	http.ResponseWriter
	server  *Server
	request *http.Request
	failed  bool
}

func (w *plainWriter) WriteHeader(status int) {
	switch {
	case status < 400:
		w.ResponseWriter.WriteHeader(status)
		return
	case status == http.StatusNotFound:
		w.server.fail(w.ResponseWriter, w.request, kindNotFound.because("The log has no such tile."))
	case status < 500:
		w.server.fail(w.ResponseWriter, w.request, kindMalformed.because("This is no path of a tile."))
	default:
		w.server.fail(w.ResponseWriter, w.request, kindInternal.because("The tile could not be read."))
	}
	w.failed = true
}

func (w *plainWriter) Write(b []byte) (int, error) {
	if w.failed {
		return len(b), nil // the text that went with the status; the problem has been written
	}
	return w.ResponseWriter.Write(b)
}

// size is the tree size asked for, or the newest.
func (s *Server) size(ctx context.Context, asked *int64) (int64, error) {
	if asked != nil {
		return *asked, nil
	}
	text, err := s.cfg.Log.Checkpoint(ctx)
	if err != nil {
		return 0, outside(err)
	}
	// The second line of a checkpoint is its size.
	lines := strings.SplitN(string(text), "\n", 3)
	if len(lines) < 3 {
		return 0, errors.New("reading the newest checkpoint: it has no size")
	}
	return strconv.ParseInt(lines[1], 10, 64)
}

func outside(err error) error {
	if errors.Is(err, audit.ErrRange) || errors.Is(err, audit.ErrNotFound) {
		return kindNotFound.because("The log has no such entry or size.")
	}
	return err
}

func entryView(r audit.Record) gen.AuditEntry {
	v := gen.AuditEntry{
		Index: r.Index, At: r.Time.UTC(), Action: r.Action, Object: r.Object, Project: optional(r.Project), Outcome: gen.Outcome(r.Outcome),
		Code: optional(r.Code), Request: optional(r.Request), LeafHash: base64.StdEncoding.EncodeToString(r.LeafHash[:]),
		Leaf: base64.StdEncoding.EncodeToString(r.Body), Body: map[string]any{},
	}
	_ = json.Unmarshal(r.Body, &v.Body) // for reading only; what was hashed is in leaf
	if len(r.Personal) > 0 || r.Actor.Subject != "" {
		openings := map[string]string{}
		for name, value := range r.Personal {
			openings[name] = value
		}
		for name, value := range map[string]string{"actor.subject": r.Actor.Subject, "actor.name": r.Actor.Name} {
			if value != "" {
				openings[name] = value
			}
		}
		v.Openings = &openings
	}
	return v
}

func hashViews(list []tlog.Hash) []string {
	views := make([]string, len(list))
	for i, h := range list {
		views[i] = base64.StdEncoding.EncodeToString(h[:])
	}
	return views
}
