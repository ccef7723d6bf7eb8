package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

func (h *handlers) ListDecisions(ctx context.Context, r gen.ListDecisionsRequestObject) (gen.ListDecisionsResponseObject, error) {
	if err := h.allow(ctx, "decision.list", "", authz.Object{Kind: "decisions"}, ""); err != nil {
		return nil, err
	}
	f := keybroker.DecisionFilter{
		Workspace: pointer(r.Params.Workspace), Code: pointer(r.Params.Code), Outcome: pointer(r.Params.Outcome),
		Since: moment(r.Params.Since), Until: moment(r.Params.Until),
	}
	page := h.pager(ctx, r.Params.Limit, "decisions", f.Workspace, f.Code, f.Outcome, f.Since.Format(time.RFC3339Nano), f.Until.Format(time.RFC3339Nano))
	var err error
	if f.Before, err = page.after(r.Params.Cursor); err != nil {
		return nil, err
	}
	f.Limit = page.limit + 1
	list, err := h.cfg.Decisions.Decisions(ctx, f)
	if err != nil {
		return nil, err
	}
	items, next := cut(page, list, func(d keybroker.Judged) string { return d.ID }, decisionView)
	return gen.ListDecisions200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetDecision(ctx context.Context, r gen.GetDecisionRequestObject) (gen.GetDecisionResponseObject, error) {
	d, err := h.decision(ctx, "decision.get", r.Decision)
	if err != nil {
		return nil, err
	}
	view := decisionView(d)
	checks := make([]gen.Check, len(d.Checks))
	for i, c := range d.Checks {
		checks[i] = gen.Check{
			Name: c.Name, Status: gen.CheckStatus(c.Status), Code: c.Code, Expected: optional(c.Expected), Got: optional(c.Got),
			Source: c.Source, Section: optional(c.Section), Advice: optional(c.Advice),
		}
	}
	view.Checks = &checks
	return gen.GetDecision200JSONResponse(view), nil
}

// bundleAnswer writes a bundle as package attest writes it: its reader is strict about the form.
type bundleAnswer struct{ attest.Bundle }

func (b bundleAnswer) VisitGetDecisionBundleResponse(w http.ResponseWriter) error {
	body, err := json.Marshal(b.Bundle)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(body)
	return err
}

func (h *handlers) GetDecisionBundle(ctx context.Context, r gen.GetDecisionBundleRequestObject) (gen.GetDecisionBundleResponseObject, error) {
	if _, err := h.decision(ctx, "decision.bundle", r.Decision); err != nil {
		return nil, err
	}
	bundle, err := h.cfg.Decisions.Bundle(ctx, r.Decision)
	if err != nil {
		return nil, err
	}
	return bundleAnswer{bundle}, nil
}

// decision returns a decision to which the caller may do the operation.
func (s *Server) decision(ctx context.Context, op authz.Operation, id string) (keybroker.Judged, error) {
	d, err := s.cfg.Decisions.Decision(ctx, id)
	if errors.Is(err, keybroker.ErrNotFound) {
		return d, s.missing(ctx, op, "decision", id)
	}
	if err != nil {
		return d, err
	}
	return d, s.allow(ctx, op, "decision.get", authz.Object{Kind: "decision", ID: d.ID}, d.Project)
}

func decisionView(d keybroker.Judged) gen.Decision {
	return gen.Decision{
		ID: d.ID, Workspace: d.Workspace, Project: d.Project, Site: d.Site, Generation: d.Generation, Purpose: d.Purpose,
		Outcome: d.Outcome, Code: optional(d.Code), Tee: d.TEE, At: d.At.UTC(), Lease: d.Lease,
		Evidence: optional(hex.EncodeToString(d.Evidence)), Policy: optional(hex.EncodeToString(d.Policy)),
		Collateral: optional(hex.EncodeToString(d.Collateral)), ReportData: optional(hex.EncodeToString(d.ReportData)),
	}
}

func moment(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
