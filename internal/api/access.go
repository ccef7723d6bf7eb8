package api

import (
	"context"
	"fmt"

	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
)

// allow returns nil if the caller may do the operation to the object. Otherwise the denial is audited, and only then
// answered: 403 to somebody who may see the object by the operation see, 404 to everybody else, as if it were not there. The
// 403 says whether a role is missing or another person.
// see is empty for what has no id, such as a list or a creation, where there is nothing to hide.
func (s *Server) allow(ctx context.Context, op, see authz.Operation, o authz.Object, project string) error {
	c := callOf(ctx)
	verdict := s.cfg.Authz.Decide(c.who.Principal, op, o)
	if verdict.Allowed {
		return nil
	}
	p := kindForbidden.because("None of your roles allows " + string(op) + " here.")
	p.code = "policy"
	if verdict.Own != "" {
		p = kindSelf.because(verdict.Own)
		p.code = kindSelf.slug
	}
	if see != "" && (see == op || !s.cfg.Authz.Allowed(c.who.Principal, see, o)) {
		p = absent(o.Kind)
		if err := s.refuse(ctx, op, o, project, "hidden"); err != nil {
			return err
		}
		return p
	}
	if err := s.refuse(ctx, op, o, project, p.code); err != nil {
		return err
	}
	return p
}

// absent is one answer for what is not there and for what the caller may not know to be there: not a byte tells them apart.
func absent(kind string) *problem {
	return kindNotFound.because("There is no such " + kind + " for you.")
}

// missing answers for an id that nothing has, in the words and with the entry of one that is hidden, so that neither the
// answer nor the time it takes tells which it was.
func (s *Server) missing(ctx context.Context, op authz.Operation, kind, id string) error {
	if err := s.refuse(ctx, op, authz.Object{Kind: kind, ID: id}, "", "hidden"); err != nil {
		return err
	}
	return absent(kind)
}

// may asks without consequence: for what a list shows.
func (s *Server) may(ctx context.Context, op authz.Operation, o authz.Object) bool {
	return s.cfg.Authz.Allowed(callOf(ctx).who.Principal, op, o)
}

// refuse puts a denial into the audit log and waits until it stands there: a denial that could not be recorded is a
// failure of the service and not an answer. A caller without any role, or with more denials than anybody needs, has none
// of his or her own: such denials are counted, lest the log be filled with them. What the caller may see and wanted to
// change is named even then, as far as there is room; ids that hide nothing can be made up, and would take it.
func (s *Server) refuse(ctx context.Context, op authz.Operation, o authz.Object, project, code string) error {
	c := callOf(ctx)
	s.metrics.denied.WithLabelValues(string(op), code).Inc()
	object := o.Kind
	if o.ID != "" {
		object += "/" + o.ID
	}
	if of, counted := s.inCrowd(c, op); counted {
		var named []string
		if of != strangers && code != "hidden" && changes(op) {
			named = append(named, object)
		}
		s.refusals.count(of, string(op), 1, named...)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), waitForLog)
	defer cancel()
	_, err := s.cfg.Log.Refuse(ctx, audit.Entry{
		Actor: c.actor(), Action: string(op), Object: object, Project: project, Outcome: audit.Refused, Code: code, Request: c.id,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errAuditBehind, err)
	}
	return nil
}

// refusedBy audits an error of a service that is a refusal, and returns the error as it is.
func (s *Server) refusedBy(ctx context.Context, err error, op authz.Operation, o authz.Object, project string) error {
	p := problemOf(err)
	if p.status != 403 {
		return err
	}
	code := p.code
	if code == "" {
		code = p.slug
	}
	if e := s.refuse(ctx, op, o, project, code); e != nil {
		return e
	}
	return err
}
