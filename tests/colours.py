"""How different two colours look (CIEDE2000), and how well one can be read on another (WCAG)."""
import numpy as np

def rgb(colour): return np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
def linear(c): return np.where(c <= .04045, c / 12.92, ((c + .055) / 1.055)**2.4)

def lab(colour):
    "CIE L*a*b* under daylight, D65."
    to_xyz = np.array([[.4124564, .3575761, .1804375], [.2126729, .7151522, .0721750],
                       [.0193339, .1191920, .9503041]])
    t = to_xyz @ linear(rgb(colour)) / (.95047, 1, 1.08883)
    x, y, z = np.where(t > (6 / 29)**3, np.cbrt(t), t * (29 / 6)**2 / 3 + 4 / 29)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)

def ciede2000(one, two):
    "Sharma, Wu & Dalal (2005), equations 2 to 22, on two triples L*a*b*."
    (L1, a1, b1), (L2, a2, b2) = one, two
    C = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    G = (1 - np.sqrt(C**7 / (C**7 + 25.**7))) / 2
    a1, a2 = (1 + G) * a1, (1 + G) * a2
    C1, C2, h1 = np.hypot(a1, b1), np.hypot(a2, b2), np.degrees(np.arctan2(b1, a1)) % 360
    h2 = np.degrees(np.arctan2(b2, a2)) % 360
    grey, turn = C1 * C2 == 0, h2 - h1
    dh = 0 if grey else turn - 360 * np.sign(turn) * (abs(turn) > 180)
    dH = 2 * np.sqrt(C1 * C2) * np.sin(np.radians(dh / 2))
    h = (h1 + h2 if grey else (h1 + h2) / 2 if abs(turn) <= 180
         else (h1 + h2 + (360 if h1 + h2 < 360 else -360)) / 2)
    L, C = (L1 + L2) / 2, (C1 + C2) / 2
    T = (1 - .17 * np.cos(np.radians(h - 30)) + .24 * np.cos(np.radians(2 * h))
         + .32 * np.cos(np.radians(3 * h + 6)) - .2 * np.cos(np.radians(4 * h - 63)))
    SL, SC, SH = 1 + .015 * (L - 50)**2 / np.sqrt(20 + (L - 50)**2), 1 + .045 * C, 1 + .015 * C * T
    turned = -np.sin(np.radians(60 * np.exp(-((h - 275) / 25)**2))) * 2 * np.sqrt(C**7 / (C**7 + 25.**7))
    l, c, H = (L2 - L1) / SL, (C2 - C1) / SC, dH / SH
    return np.sqrt(l**2 + c**2 + H**2 + turned * c * H)

def apart(one, two): return ciede2000(lab(one), lab(two))

def luminance(colour): return linear(rgb(colour)) @ (.2126, .7152, .0722)

def contrast(one, two):
    low, high = sorted((luminance(one), luminance(two)))
    return (high + .05) / (low + .05)
