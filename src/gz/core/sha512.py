# SPDX-License-Identifier: Apache-2.0
"""SHA-512 (FIPS 180-4), HMAC (RFC 2104) and HKDF (RFC 5869) over memory. Nothing here depends on secrets in time.

One caller at a time: the key of a derivation lies in storage.
"""

from __future__ import annotations

from math import isqrt

from gz.bits import Array, Struct, Va, array, storage, table, u8, u32, u64
from gz.metal import address, byte_swap, inline, peek8, peek64, poke8, poke64

DIGEST_SIZE = 64
_BLOCK = 128
_WORDS = _BLOCK // 8
_ROUNDS = 80
_LENGTH_SIZE = 16
_MARK = 0x80
_INNER = 0x36
_OUTER = 0x5C
_PRIMES = [n for n in range(2, 410) if all(n % k for k in range(2, isqrt(n) + 1))]


def _cube_root(n: int) -> int:
    """Of a perfect or imperfect cube, rounded down."""
    low, high = 0, 1 << (n.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**3 <= n:
            low = middle
        else:
            high = middle - 1
    return low


_FRACTION = (1 << 64) - 1
#: The first 64 bits of the fractions of the primes' cube roots, and of square roots for the first eight.
_CONSTANTS = table(u64, [_cube_root(p << 192) & _FRACTION for p in _PRIMES[:_ROUNDS]])
_START = table(u64, [isqrt(p << 128) & _FRACTION for p in _PRIMES[:8]])


class Sha512(Struct):
    state: Array[u64] = array(8)
    schedule: Array[u64] = array(_ROUNDS)
    block: Array[u8] = array(_BLOCK, align=8)
    length: u64  # bytes so far


class Derivation(Struct):
    hash: Sha512
    key: Array[u8] = array(_BLOCK, align=8)
    digest: Array[u8] = array(DIGEST_SIZE, align=8)
    counter: Array[u8] = array(8, align=8)


derivation = storage(Derivation)


def begin(hash: Sha512) -> None:
    for i in range(8):
        hash.state[i] = _START[i]
    hash.length = 0


def add(hash: Sha512, at: Va, size: u64) -> None:
    done: u64 = 0
    while done < size:
        held = hash.length % _BLOCK
        if held == 0 and size - done >= _BLOCK and u64(at + done) & 7 == 0:
            _compress(hash, at + done)
            hash.length += _BLOCK
            done += _BLOCK
        else:
            hash.block[held] = peek8(at + done)
            hash.length += 1
            done += 1
            if held == _BLOCK - 1:
                _compress(hash, address(hash.block))


def end(hash: Sha512, to: Va) -> None:
    """The digest of DIGEST_SIZE bytes; `to` is aligned to 8."""
    held = hash.length % _BLOCK
    hash.block[held] = _MARK
    for i in range(held + 1, _BLOCK):
        hash.block[i] = 0
    if held >= _BLOCK - _LENGTH_SIZE:
        _compress(hash, address(hash.block))
        for i in range(_BLOCK):
            hash.block[i] = 0
    poke64(address(hash.block) + _BLOCK - 8, byte_swap(8 * hash.length))
    _compress(hash, address(hash.block))
    for i in range(8):
        poke64(to + 8 * i, byte_swap(hash.state[i]))


@inline
def _rotate(x: u64, count: u32) -> u64:
    return x >> count | x << (64 - count)


def _compress(hash: Sha512, at: Va) -> None:
    w = hash.schedule
    for i in range(_WORDS):
        w[i] = byte_swap(peek64(at + 8 * i))
    for i in range(_WORDS, _ROUNDS):
        x = w[i - 15]
        y = w[i - 2]
        x = _rotate(x, 1) ^ _rotate(x, 8) ^ x >> 7
        y = _rotate(y, 19) ^ _rotate(y, 61) ^ y >> 6
        w[i] = w[i - 16] + x + w[i - 7] + y
    s = hash.state
    a, b, c, d = s[0], s[1], s[2], s[3]
    e, f, g, h = s[4], s[5], s[6], s[7]
    for i in range(_ROUNDS):
        one = _rotate(e, 14) ^ _rotate(e, 18) ^ _rotate(e, 41)
        first = h + one + (e & f ^ ~e & g) + _CONSTANTS[i] + w[i]
        zero = _rotate(a, 28) ^ _rotate(a, 34) ^ _rotate(a, 39)
        second = zero + (a & b ^ a & c ^ b & c)
        h = g
        g = f
        f = e
        e = d + first
        d = c
        c = b
        b = a
        a = first + second
    s[0] += a
    s[1] += b
    s[2] += c
    s[3] += d
    s[4] += e
    s[5] += f
    s[6] += g
    s[7] += h


@inline
def _pad(value: u8) -> None:
    """Begin with the key that lies in `derivation.key`, xored with the byte."""
    for i in range(_BLOCK):
        derivation.key[i] ^= value
    begin(derivation.hash)
    add(derivation.hash, address(derivation.key), _BLOCK)
    for i in range(_BLOCK):
        derivation.key[i] ^= value


@inline
def _set_key(key: Va, size: u64) -> None:
    for i in range(_BLOCK):
        derivation.key[i] = peek8(key + i) if i < size else 0


@inline
def _finish_mac() -> None:
    """After the message: HMAC into `derivation.digest`."""
    digest = address(derivation.digest)
    end(derivation.hash, digest)
    _pad(_OUTER)
    add(derivation.hash, digest, DIGEST_SIZE)
    end(derivation.hash, digest)


def derive(to: Va, size: u64, secret: Va, secret_size: u64, salt: Va, salt_size: u64, info: Va, info_size: u64) -> None:
    """HKDF of at most one digest; the salt has at most 128 bytes. Nothing of it stays in the core."""
    assert size <= DIGEST_SIZE and salt_size <= _BLOCK, "a derivation of another shape"
    _set_key(salt, salt_size)
    _pad(_INNER)
    add(derivation.hash, secret, secret_size)
    _finish_mac()
    _set_key(address(derivation.digest), DIGEST_SIZE)
    _pad(_INNER)
    add(derivation.hash, info, info_size)
    derivation.counter[0] = 1
    add(derivation.hash, address(derivation.counter), 1)
    _finish_mac()
    for i in range(size):
        poke8(to + i, derivation.digest[i])
    forget()


def forget() -> None:
    """Clear what was derived with."""
    at = address(derivation)
    for offset in range(0, Derivation.size, 8):
        poke64(at + offset, 0)
