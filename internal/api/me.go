package api

import (
	"context"

	"github.com/eosc-siesta/siestad/internal/api/gen"
)

func (h *handlers) WhoAmI(ctx context.Context, _ gen.WhoAmIRequestObject) (gen.WhoAmIResponseObject, error) {
	who := callOf(ctx).who
	roles := who.Roles
	if roles == nil {
		roles = []string{}
	}
	return gen.WhoAmI200JSONResponse{Subject: who.Subject, Name: optional(who.name), Kind: gen.MeKind(who.Kind), Roles: roles}, nil
}
