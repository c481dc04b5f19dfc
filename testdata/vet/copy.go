// Package vet copies a Batch in every way that go vet should find.
package vet

import (
	"context"

	"example.com/rpcx"
)

func byParameter(ctx context.Context, s *rpcx.Session, b rpcx.Batch) error {
	return s.SendBatch(ctx, &b)
}

func byAssignment(ctx context.Context, s *rpcx.Session) error {
	var b rpcx.Batch
	b.Notify("m", nil)
	again := b
	return s.SendBatch(ctx, &again)
}

func byResult(b *rpcx.Batch) rpcx.Batch {
	return *b
}

func byRange(ctx context.Context, s *rpcx.Session, batches []rpcx.Batch) {
	for _, b := range batches {
		_ = s.SendBatch(ctx, &b)
	}
}
