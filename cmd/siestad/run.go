package main

import (
	"context"
	"errors"
)

func serve(ctx context.Context, c *Config) error { return errors.New("x") }
