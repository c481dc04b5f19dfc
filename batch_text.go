package rpcx

// fillMembers fills the destinations of the members of a finished batch, and returns the
// error for the batch. Strings share memory; see textRun.
func fillMembers(members []*Future) error {
	run := textRun{members: members}
	i := -1
	return batchError(members, func(f *Future) error {
		i++
		b := f.batch
		dest, ok := b.dest.(*string)
		if !ok {
			return f.fillDestinations()
		}
		b.filled.Do(func() {
			if text, ok := run.textOf(i); ok {
				*dest = text
			} else {
				b.fillErr = f.Decode(dest)
			}
		})
		return b.fillErr
	})
}

// textRun decodes the results of members whose destinations are strings. Short strings of
// successive members share an allocation of at most maxSharedArena bytes. So a batch of a
// hundred strings takes a few allocations.
type textRun struct {
	members []*Future // finished
	first   int       // index of the first member in text
	text    string    // the decoded strings of members from first on
	ends    []int     // end of each string in text
	few     [64]int   // memory of ends
}

// textOf returns the string of member i. If another way must decode the result, ok is
// false.
func (r *textRun) textOf(i int) (text string, ok bool) {
	if i >= r.first+len(r.ends) {
		r.collect(i)
	}
	k := i - r.first
	if k >= len(r.ends) {
		return "", false
	}
	start := 0
	if k > 0 {
		start = r.ends[k-1]
	}
	return r.text[start:r.ends[k]], true
}

// collect decodes the strings of members from first on, up to a result that is no short
// string.
func (r *textRun) collect(first int) {
	sc := getEncodeBuffer()
	defer sc.recycle()
	sc.msg = sc.msg[:0]
	r.first, r.ends = first, r.few[:0]
	for _, f := range r.members[first:] {
		text, ok := f.shortString()
		if !ok || len(r.ends) == cap(r.ends) || len(sc.msg)+len(text) > maxSharedArena {
			break
		}
		sc.msg = append(sc.msg, text...)
		r.ends = append(r.ends, len(sc.msg))
	}
	r.text = string(sc.msg)
}

// shortString returns the string in the result of f, a finished call of a batch. If the
// destination is no string, or the result is no short string without escape sequences, ok
// is false.
func (f *Future) shortString() (text []byte, ok bool) {
	if dest, ok := f.batch.dest.(*string); !ok || dest == nil || f.err != nil || f.call == nil {
		return nil, false
	}
	if _, ok := f.call.message.codec().(jsonCodec); !ok {
		return nil, false
	}
	raw := f.call.result
	if len(raw) > maxSharedArena/2 {
		return nil, false
	}
	return unescapedString(raw)
}
