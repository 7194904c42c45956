"The picture of the README: nbs/images/denoised.png, a head that no weights have seen"

import matplotlib.pyplot as plt
import numpy as np
from project import root

import mri_diffusion as mri
from mri_diffusion.core import generator

clean = mri.load_t1(downsample=1)
sigma = float(np.median(clean.data[clean.data > 0.2 * clean.data.max()])) / 10
noisy = mri.Scan.from_array(mri.add_noise(clean.data, sigma, 'rician', gen=generator(0)))
result = mri.denoise(noisy, sigma)
fig = mri.show_triptych(noisy.data, result.denoised.data, sigma=sigma, index=95)
path = root / 'nbs/images/denoised.png'
path.parent.mkdir(exist_ok=True)
fig.savefig(path, dpi=80, bbox_inches='tight')
plt.close(fig)
print(path)
