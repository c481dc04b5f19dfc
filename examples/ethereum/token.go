package main

import (
	"encoding/binary"
	"encoding/hex"

	"example.com/rpcx"
)

// supply is how much there is of the token, whose contract is the only one.
const supply = 3_000_000

var (
	token    = filled(0x70)
	accounts = [...]address{filled(0x11), filled(0x22), filled(0x33)}
)

func filled(b byte) (a address) {
	for i := range a {
		a[i] = b
	}
	return a
}

// transferTopic is the first topic of the event Transfer(address,address,uint256).
var transferTopic = func() (h hash) {
	hex.Decode(h[:], []byte("ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"))
	return h
}()

// topic returns a as the topic of an event.
func (a address) topic() (h hash) {
	copy(h[len(h)-len(a):], a[:])
	return h
}

// word returns a number in the form of contracts: 32 bytes, big endian.
func word(n uint64) data {
	return binary.BigEndian.AppendUint64(make(data, 24), n)
}

// abiString returns a text in the form of contracts.
func abiString(text string) data {
	return append(append(append(word(32), word(uint64(len(text)))...), text...), make(data, 31-(len(text)-1)%32)...)
}

// callToken answers a call of the token's contract, with the state after block b.
func callToken(b *block, input data) (data, error) {
	if len(input) < 4 {
		return nil, errReverted
	}
	switch args := input[4:]; hex.EncodeToString(input[:4]) {
	case "70a08231": // balanceOf(address)
		if len(args) < 32 {
			return nil, errReverted
		}
		for i, account := range accounts {
			if account.topic() == hash(args[:32]) {
				return word(b.balances[i]), nil
			}
		}
		return word(0), nil
	case "18160ddd": // totalSupply()
		return word(supply), nil
	case "313ce567": // decimals()
		return word(0), nil
	case "95d89b41": // symbol()
		return abiString("RPX"), nil
	}
	return nil, errReverted
}

// errReverted is the error of a call that the contract does not know, as of geth's.
var errReverted = rpcx.Errorf(3, "execution reverted").WithData(data{})
