// SPDX-License-Identifier: Apache-2.0
// Eight float32 values as vectors of 64-bit Arm. Included by conversions.cc inside a namespace,
// with TARGET, before conversion_loops.h. No include guard on purpose.

struct Values {
  float32x4_t low, high;
};
using Words = uint16x8_t;

inline Values read_values(const unsigned char* x) {
  const auto bits = [x](int at) { return vreinterpretq_f32_u8(vld1q_u8(x + at)); };
  return {bits(0), bits(16)};
}
inline void write_values(unsigned char* y, Values values) {
  vst1q_u8(y, vreinterpretq_u8_f32(values.low));
  vst1q_u8(y + 16, vreinterpretq_u8_f32(values.high));
}
inline Words read_words(const unsigned char* words) {
  return vreinterpretq_u16_u8(vld1q_u8(words));
}
inline void write_words(unsigned char* words, Words eight) {
  vst1q_u8(words, vreinterpretq_u8_u16(eight));
}

inline bool any_nan(Values a, Values b) {
  const uint32x4_t low = vandq_u32(vceqq_f32(a.low, a.low), vceqq_f32(b.low, b.low));
  const uint32x4_t high = vandq_u32(vceqq_f32(a.high, a.high), vceqq_f32(b.high, b.high));
  return vminvq_u32(vandq_u32(low, high)) == 0;
}

// To and from words of 16 bits.
template <class F>
struct Eight;

template <>
struct Eight<Float16> {
  static Words encode(Values x) {
    return vreinterpretq_u16_f16(vcombine_f16(vcvt_f16_f32(x.low), vcvt_f16_f32(x.high)));
  }
  static Values decode(Words words) {
    const float16x8_t halves = vreinterpretq_f16_u16(words);
    return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_f32_f16(vget_high_f16(halves))};
  }
  static Values round_trip(Values x) { return decode(encode(x)); }
};

template <>
struct Eight<Bfloat16> {
  static uint32x4_t rounded(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd);
  }
  static Words encode(Values x) {
    return vcombine_u16(vshrn_n_u32(rounded(x.low), 16), vshrn_n_u32(rounded(x.high), 16));
  }
  static Values decode(Words words) {
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(words), 16)),
            vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(words), 16))};
  }
  static Values round_trip(Values x) {
    const uint32x4_t kept = vdupq_n_u32(0xFFFF0000u);
    return {vreinterpretq_f32_u32(vandq_u32(rounded(x.low), kept)),
            vreinterpretq_f32_u32(vandq_u32(rounded(x.high), kept))};
  }
};
